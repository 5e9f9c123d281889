package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// chaosEvents are the ordinary events of which TestChaos draws. Several happen in a row:
// the log may be there or not.
var chaosEvents = []chaosEvent{
	{"nothing", func(*chaosApp, *rand.Rand) {}},
	// As dpkg does it: a new file takes the name of the old one.
	{"upgrade of the C library", scripted(`cd "$LOWER/lib"; cp libc.so.6 new; echo another build >>new; mv new libc.so.6`)},
	{"upgrade of the program", scripted(`[ -e "$PROGRAM" ] || exit 0; cp "$PROGRAM" "$PROGRAM.new"; echo another build >>"$PROGRAM.new"; mv "$PROGRAM.new" "$PROGRAM"`)},
	{"removal of a library and its return", scripted(`cd "$LOWER/lib"; cp -p libm.so.6 new; rm libm.so.6; mv new libm.so.6`)},
	{"chmod of the program and a library", scripted(`chmod 0711 "$LOWER"/lib/*; chmod 0755 "$LOWER"/lib/*; [ ! -e "$PROGRAM" ] || chmod 0751 "$PROGRAM"; chmod 0755 "$LOWER"/lib/*`)},
	{"chmod of files of the bind", scripted(`chmod 0640 "$BIND/data"; [ ! -e "$BIND/log" ] || chmod 0664 "$BIND/log"`)},
	{"rotation of the log", scripted(`[ ! -e "$BIND/log" ] || mv "$BIND/log" "$BIND/log.1"; touch "$BIND/log"; chmod 0666 "$BIND/log"`)},
	{"rotation of the log without a new one", scripted(`[ ! -e "$BIND/log" ] || mv "$BIND/log" "$BIND/log.1"`)},
	{"log that grew and was emptied", scripted(`touch "$BIND/log"; yes | head -n 1000 >>"$BIND/log"; : >"$BIND/log"`)},
	{"file that grew", scripted(`head -c 5000 /dev/zero >>"$BIND/data"`)},
	{"file that was cut", scripted(`head -c 100 /dev/zero >"$BIND/data"`)},
	{"file that was written in place and touched", scripted(`printf hello | dd of="$BIND/data" conv=notrunc status=none; touch -d yesterday "$BIND/data"`)},
	{"somebody tries the app's lock", scripted(`! flock -n "$BIND/lock" true`)},
	{"somebody locks another file of it", scripted(`flock -n "$BIND/data" true; flock -s -n "$BIND/log" true`)},
	{"probe", probe},
	{"program that starts slowly", slowStart},
	{"death of the daemon", func(c *chaosApp, _ *rand.Rand) { c.killDaemon() }},
	{"start of a second daemon", secondDaemon},
	{"night with memory pressure", scripted(`sync; echo 3 >/proc/sys/vm/drop_caches`)},
}

// scripted is an event that a shell script on the host makes.
func scripted(script string) func(*chaosApp, *rand.Rand) {
	return func(c *chaosApp, _ *rand.Rand) {
		c.t.Helper()
		c.run(script)
	}
}

// probe connects and hangs up, as a health check does.
func probe(c *chaosApp, draw *rand.Rand) {
	for range 1 + draw.IntN(3) {
		conn, err := c.DialContext(c.t.Context(), "tcp", net.JoinHostPort(c.endpoint, "8080"))
		qt.Assert(c.t, qt.IsNil(err))
		qt.Assert(c.t, qt.IsNil(conn.Close()))
	}
}

// slowStart runs a program that listens only after a while, longer than it takes an idle
// app to be hibernated: it must be there for its client.
func slowStart(c *chaosApp, draw *rand.Rand) {
	const slow = `import socket, time; time.sleep(2.5)
s = socket.socket(); s.bind(("", 8080)); s.listen()
while True:
    c, _ = s.accept(); c.sendall(b"hello\n"); c.close()`
	name := fmt.Sprintf("slow-%d", draw.IntN(1<<30))
	a := c.Run(&api.RunRequest{Name: name, HibernateAfter: durationpb.New(time.Second), Args: []string{"/usr/bin/python3", "-c", slow}})
	c.Until("slow program answers", func() error {
		conn, err := c.DialContext(c.t.Context(), "tcp", net.JoinHostPort(a.GetEndpoint(), "8080"))
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(askTime)); err != nil {
			return err
		}
		b := make([]byte, 16)
		n, err := conn.Read(b)
		if err == nil && string(b[:n]) != "hello\n" {
			err = fmt.Errorf("it says %q", b[:n])
		}
		return err
	})
	qt.Assert(c.t, qt.IsNil(c.API.Remove(c.t.Context(), &api.RemoveRequest{Name: name, Force: true})))
}

// secondDaemon starts another daemon on the same directories, which must refuse, and
// leave everything alone.
func secondDaemon(c *chaosApp, _ *rand.Rand) {
	path, err := c.Install(c.t.Context(), "snapctld")
	qt.Assert(c.t, qt.IsNil(err))
	r, err := host.Run(c.Command(c.t.Context(), path, "--state-dir", c.StateDir(), "--run-dir", host.RunDir))
	qt.Assert(c.t, qt.IsNil(err))
	qt.Assert(c.t, qt.IsTrue(r.Code == 1 && strings.Contains(r.Stderr, "another snapctld uses this state directory")), qt.Commentf("%d: %s", r.Code, r.Stderr))
}
