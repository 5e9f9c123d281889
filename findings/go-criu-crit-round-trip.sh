#!/usr/bin/env bash
# crit of go-criu v8.3.0 (Go) does not give back each image of CRIU 4.2.1 that it has decoded.
#
# Expected: `crit encode` of `crit decode` is the image, byte for byte, for all but raw pages.
# Seen: it is so for most. The image of a deleted file grows by 8 bytes of zero, and so would
# the file; nothing is said. An image of a TCP connection can't be decoded: an error about
# invalid JSON, with or without unread data.
#
# Why: crit/decode.go, decodeGhostFile, makes a buffer for more than is left in the file (it
# forgets the 8 bytes of magic numbers), and keeps all of it. crit/image.go, MarshalJSON, puts quotes around what decodeTCPStream gives,
# which is JSON with quotes of its own.
#
# What snapctl does: snapshot/image has a codec of its own, and uses go-criu's messages only.
# shellcheck source=findings/criu.bash
. "$(dirname "$0")/criu.bash"
go=$(scripts/deps go)
export GOFLAGS="-modcacherw -trimpath" GOMODCACHE=$tmp/modules CGO_ENABLED=0 GOWORK=off
(cd "$tmp" && GOBIN=$tmp/bin "$go" install github.com/checkpoint-restore/go-criu/v8/crit/cmd@v8.3.0 2>/dev/null)
cat >"$tmp/app.py" <<'P'
import os, socket, sys, time
deleted = open(sys.argv[1] + "/deleted", "w+")
deleted.write("x" * 1000)
deleted.flush()
os.unlink(deleted.name)
out, into = os.pipe()
os.write(into, b"unread")
server = socket.create_server(("127.0.0.1", 7000))
client = socket.create_connection(("127.0.0.1", 7000))
connection, _ = server.accept()
open(sys.argv[1] + "/ready", "w").close()
time.sleep(1000)
P
# shellcheck disable=SC2016 # for the shell inside
inside 'start python3 "$tmp/app.py" "$tmp"; dump --tcp-established'
for image in "$tmp"/images/*.img; do
	name=$(basename "$image" .img); name=${name%-*}
	[ "$name" != pages ] || continue
	if ! "$tmp/bin/cmd" decode -i "$image" -o "$tmp/json" >"$tmp/said" 2>&1; then
		echo "$name is not decoded: $(grep -o "invalid character.*" "$tmp/said")"
	elif "$tmp/bin/cmd" encode -i "$tmp/json" -o "$tmp/again" && cmp -s "$image" "$tmp/again"; then
		:
	else
		echo "$name has $(($(stat -c %s "$tmp/again") - $(stat -c %s "$image"))) bytes more"
	fi
done | sort -u >"$tmp/seen"
want "images that are not as they were" "ghost-file has 8 bytes more
tcp-stream is not decoded: invalid character 'i' after object key:value pair" "$(cat "$tmp/seen")"
