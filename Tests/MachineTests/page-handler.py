# SPDX-License-Identifier: Apache-2.0
#
# A page handler as Firecracker's users write them: takes one monitor's handoff at the unix socket argv[1], puts pages of
# the file argv[2] where they are missing, one at a time, and ends when its standard input does.
import array, ctypes, json, os, select, socket, struct, sys

UFFDIO_COPY = 3 << 30 | 40 << 16 | 0xAA << 8 | 3
libc = ctypes.CDLL(None, use_errno=True)
content = open(sys.argv[2], "rb").read()
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
connection, _ = listener.accept()
message, descriptors, _, _ = socket.recv_fds(connection, 1024, 8)
assert len(descriptors) == 1, descriptors
fault = descriptors[0]
regions = json.loads(message)
for region in regions:
    assert list(region) == ["base_host_virt_addr", "size", "offset", "page_size", "page_size_kib"], region
    assert region["page_size"] == region["page_size_kib"] == 4096
print(json.dumps([[region["size"], region["offset"]] for region in regions]), flush=True)
while True:
    ready, _, _ = select.select([fault, sys.stdin], [], [])
    if sys.stdin in ready:
        break
    event = os.read(fault, 32)
    assert event[0] == 0x12, event
    address = struct.unpack_from("<Q", event, 16)[0] & ~4095
    region = next(r for r in regions if 0 <= address - r["base_host_virt_addr"] < r["size"])
    offset = address - region["base_host_virt_addr"] + region["offset"]
    page = ctypes.create_string_buffer(content[offset : offset + 4096], 4096)
    copy = struct.pack("<QQQQq", address, ctypes.addressof(page), 4096, 0, 0)
    libc.ioctl(fault, ctypes.c_ulong(UFFDIO_COPY), ctypes.create_string_buffer(copy, 40))
