# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Writes an OCI image layout with one gzip layer; sourced by the scripts beside it.
# Needs only coreutils, tar and gzip. Equal trees give equal bytes: names are sorted, no time of the build
# enters, gzip stores neither name nor time.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

requireTag() {
    # The distribution specification's grammar of a tag; it also makes the name safe inside JSON.
    [[ $1 =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$ ]] ||
        die "'$1' is not a tag: letters, digits, '_', '.' and '-', at most 128, not beginning with '.' or '-'"
}

# Fails unless the directory $1 may be replaced: it is not there, empty, or an OCI layout already.
requireReplaceable() {
    [[ ! -e $1 || -f $1/oci-layout ]] && return
    [[ -d $1 && -z $(ls -A -- "$1") ]] && return
    die "$1 is there and is not an OCI layout; name another directory or remove it"
}

# addBlob LAYOUT FILE: moves FILE to its place among the layout's blobs and prints its digest in hexadecimal.
addBlob() {
    local digest
    digest=$(sha256sum -- "$2" | cut -d ' ' -f 1)
    mv -- "$2" "$1/blobs/sha256/$digest"
    printf '%s\n' "$digest"
}

# writeLayout LAYOUT TAG CONFIG TAR-ARGUMENTS…
# Makes the layout in the new directory LAYOUT. CONFIG is the JSON object of the image's `config` field.
writeLayout() {
    local layout=$1 tag=$2 config=$3
    shift 3
    mkdir -p -- "$layout/blobs/sha256"

    tar --create --file "$layout/layer.tar" --format=pax --pax-option=delete=atime,delete=ctime \
        --sort=name --numeric-owner "$@"
    local diff layer size
    diff=$(sha256sum -- "$layout/layer.tar" | cut -d ' ' -f 1)
    gzip --no-name -6 -- "$layout/layer.tar"
    size=$(stat --format %s -- "$layout/layer.tar.gz")
    layer=$(addBlob "$layout" "$layout/layer.tar.gz")

    local configSize configDigest
    printf '{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:00Z","config":%s,%s}' "$config" \
        "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$diff\"]}" >"$layout/config"
    configSize=$(stat --format %s -- "$layout/config")
    configDigest=$(addBlob "$layout" "$layout/config")

    local type=application/vnd.oci.image manifestSize manifestDigest
    printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json",%s,%s}' "$type" \
        "\"config\":{\"mediaType\":\"$type.config.v1+json\",\"digest\":\"sha256:$configDigest\",\"size\":$configSize}" \
        "\"layers\":[{\"mediaType\":\"$type.layer.v1.tar+gzip\",\"digest\":\"sha256:$layer\",\"size\":$size}]" \
        >"$layout/manifest"
    manifestSize=$(stat --format %s -- "$layout/manifest")
    manifestDigest=$(addBlob "$layout" "$layout/manifest")

    printf '{"schemaVersion":2,"mediaType":"%s.index.v1+json","manifests":[{%s,%s,%s}]}\n' "$type" \
        "\"mediaType\":\"$type.manifest.v1+json\",\"digest\":\"sha256:$manifestDigest\",\"size\":$manifestSize" \
        '"platform":{"architecture":"amd64","os":"linux"}' \
        "\"annotations\":{\"org.opencontainers.image.ref.name\":\"$tag\"}" >"$layout/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}\n' >"$layout/oci-layout"
}

# install LAYOUT OUTDIR: puts a finished layout in its place, whole.
installLayout() {
    mkdir -p -- "$(dirname -- "$2")"
    local beside
    beside=$(mktemp -d -- "$(dirname -- "$2")/.${2##*/}.XXXXXXXX")
    cp --recursive --reflink=auto -- "$1/." "$beside/"
    chmod 755 -- "$beside"
    rm -rf -- "$2"
    mv --no-target-directory -- "$beside" "$2"
}
