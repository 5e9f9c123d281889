package apps_test

import (
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/cmd/internal/cli/clitest"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/api"
)

// What run's flags become is the daemon's to judge, so all of it has to arrive.
func TestRunRequest(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want *api.RunRequest
	}{
		"nothing": {
			[]string{"ls"},
			&api.RunRequest{Args: []string{"ls"}, Limits: &api.Limits{}, Wake: &api.WakePolicy{}},
		},
		"the program's own flags": {
			[]string{"--name", "cache", "--endpoint", "10.77.0.7", "--", "redis-server", "--save", "", "--", "-x"},
			&api.RunRequest{
				Name: "cache", Endpoint: "10.77.0.7", Args: []string{"redis-server", "--save", "", "--", "-x"},
				Limits: &api.Limits{}, Wake: &api.WakePolicy{},
			},
		},
		"all": {
			[]string{
				"--name", "web", "--endpoint", "10.77.0.9", "--network", "blue", "--rootfs", "images/../web", "--bind", "data:/data:ro", "--bind", "/a:/b",
				"--env", "MODE=test", "--env", "HOME", "--workdir", "/srv", "--user", "web", "--hostname", "www", "--memory", "512M", "--cpus", "1.5",
				"--pids", "100", "--wake", "on-connect", "--wake-ignore", "10.77.0.1", "--wake-ignore", "192.0.2.9/24", "--hibernate-after", "30s", "--restore-memory", "copied",
				"--publish", "8080:80", "--publish", "127.0.0.1:53/udp", "--", "web",
			},
			&api.RunRequest{
				Name: "web", Endpoint: "10.77.0.9", Network: "blue", Rootfs: "/home/me/web", Args: []string{"web"},
				Binds: []*api.Bind{{Source: "/home/me/data", Destination: "/data", ReadOnly: true}, {Source: "/a", Destination: "/b"}},
				Env:   []string{"MODE=test", "HOME=/home/me"}, Workdir: "/srv", User: "web", Hostname: "www",
				Limits:         &api.Limits{MemoryBytes: 512 << 20, Cpus: 1.5, Pids: 100},
				Wake:           &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_ON_CONNECT, Ignore: []string{"10.77.0.1/32", "192.0.2.0/24"}},
				HibernateAfter: durationpb.New(30 * time.Second), RestoreMemory: api.RestoreMemory_RESTORE_MEMORY_COPIED,
				Publish: []*api.Publication{
					{Protocol: "tcp", HostPort: 8080, Port: 80},
					{Protocol: "udp", HostAddress: "127.0.0.1", HostPort: 53, Port: 53},
				},
			},
		},
		"on data": {
			[]string{"--wake", "on-data", "--wake-min-bytes", "16", "ls"},
			&api.RunRequest{Args: []string{"ls"}, Limits: &api.Limits{}, Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_ON_DATA, MinBytes: 16}},
		},
		"timers": {
			[]string{"--wake", "never", "--wake-timers", "ls"},
			&api.RunRequest{Args: []string{"ls"}, Limits: &api.Limits{}, Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER, Timers: true}},
		},
		"silent connections": {
			[]string{"--wake-silent-after", "0", "ls"},
			&api.RunRequest{Args: []string{"ls"}, Limits: &api.Limits{}, Wake: &api.WakePolicy{SilentAfter: durationpb.New(0)}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := clitest.NewBench(t)
			code := b.Run(t.Context(), append([]string{"run"}, test.args...)...)
			qt.Assert(t, qt.Equals(code, session.OK), qt.Commentf("%s", b.Stderr.String()))
			qt.Assert(t, qt.CmpEquals(b.Daemon.LastRun, test.want, protocmp.Transform()))
		})
	}
}
