// SPDX-License-Identifier: Apache-2.0

/// From the identity of a file to its inode in a tree, in a pool's pages.
///
/// Open addressing, linear probing. Hashes have a seed of the process, so that no input can be made to collide.
final class PagedMap {
    /// One number, or two where one does not tell files apart.
    struct Key: BitwiseCopyable, Hashable {
        var number: UInt64
        var device: UInt64

        init(_ number: UInt64, device: UInt64 = 0) {
            self.number = number
            self.device = device
        }
    }

    private struct Slot: BitwiseCopyable {
        var key = Key(0)
        var value: UInt32 = 0
        /// 0 for an empty slot, as a page of zeros has them.
        var isUsed: UInt32 = 0
    }

    private let pool: PagePool
    private var slots: PagedArray<Slot>
    private var count = 0

    init(_ pool: PagePool) throws(DiskImageError) {
        self.pool = pool
        slots = try PagedArray(pool, zeros: 1 << 9)
    }

    subscript(key: Key) -> UInt32? {
        get throws(DiskImageError) {
            let slot = try slots[place(key, in: slots)]
            return slot.isUsed != 0 ? slot.value : nil
        }
    }

    func set(_ key: Key, to value: UInt32) throws(DiskImageError) {
        let place = try place(key, in: slots)
        if try slots[place].isUsed == 0 { count += 1 }
        try slots.set(place, to: Slot(key: key, value: value, isUsed: 1))
        if count / 3 * 4 > slots.count { try grow() }
    }

    /// Gives its memory up; nothing is looked up afterwards.
    func removeAll() { slots.removeAll() }

    private func place(_ key: Key, in slots: PagedArray<Slot>) throws(DiskImageError) -> Int {
        let mask = slots.count - 1
        var place = key.hashValue & mask
        while case let slot = try slots[place], slot.isUsed != 0, slot.key != key { place = (place + 1) & mask }
        return place
    }

    private func grow() throws(DiskImageError) {
        let old = slots
        let new = try PagedArray<Slot>(pool, zeros: old.count * 2)
        for index in 0..<old.count {
            let slot = try old[index]
            if slot.isUsed != 0 { try new.set(try place(slot.key, in: new), to: slot) }
        }
        slots = new
    }
}
