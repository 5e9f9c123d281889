package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestHostReboots takes away what a reboot does, the run directory with all
// mounts and namespaces in it, the cgroup and the holder: a hibernated app is
// woken from its images, with its files and its /dev/shm.
func TestHostReboots(t *testing.T) {
	w := New(t, "redis-server", "ip", "nft")
	req := redisRequest("cache", "10.77.0.7")
	req.Args = append(req.Args, "--dir", "/dev/shm")
	w.Run(req)
	client := w.redis("10.77.0.7")
	qt.Assert(t, qt.Equals(client.do("SET a 1"), "+OK"))
	qt.Assert(t, qt.Equals(client.do("SAVE"), "+OK"))
	w.Hibernate("cache")

	holder := w.holderPID()
	qt.Assert(t, qt.IsNil(w.KillDaemon(t.Context(), syscall.SIGKILL)))
	w.kill(holder)
	w.powerOff(t)
	qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
	w.Dial()

	a := w.Show("cache")
	qt.Assert(t, qt.Equals(a.GetStatus(), api.Status_STATUS_HELD))
	qt.Assert(t, qt.StringContains(a.GetError(), "the sockets of app cache are lost: the host was started anew meanwhile"))
	r := w.CLI("wake", "cache")
	qt.Assert(t, qt.Equals(r.Code, 6), qt.Commentf("%s", r.Stderr))
	qt.Assert(t, qt.StringContains(r.Stdout, "1 socket reset: the host was started anew meanwhile"))
	again := w.redis("10.77.0.7")
	qt.Assert(t, qt.Equals(again.do("APPEND a x"), ":2"))
	qt.Assert(t, qt.StringContains(w.OK("exec", "cache", "ls", "/dev/shm"), "dump.rdb"))
	w.Hibernate("cache")
	qt.Assert(t, qt.Equals(again.do("APPEND a y"), ":3"))
	w.Running("cache")
}

// powerOff removes what a daemon and a holder that were killed have left, but for
// the state directory. The records tell another boot.
func (w *World) powerOff(t *testing.T) {
	t.Helper()
	r, err := host.Run(w.Command(t.Context(), "sh", "-c", `
		while mount=$(grep -o ' `+host.RunDir+`/[^ ]*' /proc/self/mounts | tail -n 1) && [ "$mount" ]; do
			umount $mount || exit
		done
		rm -r `+host.RunDir+`
		for device in $(ip -o link | cut -d: -f2 | cut -d@ -f1); do
			[ $device = lo ] || ip link delete $device || exit
		done
		nft flush ruleset
		for group in $(find /sys/fs/cgroup -depth -path '*/snapctl-*' -type d); do
			rmdir $group || exit
		done`))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	qt.Assert(t, qt.IsNil(err))
	records, err := filepath.Glob(filepath.Join(w.StateDir(), "apps", "*", "app.json"))
	qt.Assert(t, qt.IsNil(err))
	for _, path := range records {
		b, err := os.ReadFile(path)
		qt.Assert(t, qt.IsNil(err))
		text := string(b)
		if strings.Contains(text, `"status": "held"`) {
			qt.Assert(t, qt.StringContains(text, strings.TrimSpace(string(boot))))
		}
		text = regexp.MustCompile(`^\{\n  "sha256": .*\n`).ReplaceAllString(text, "{\n") // its digest is another then
		text = strings.ReplaceAll(text, strings.TrimSpace(string(boot)), "00000000-0000-0000-0000-000000000000")
		qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(text), 0o600)))
	}
}
