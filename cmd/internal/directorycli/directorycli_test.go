package directorycli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory/etcd"
	"github.com/snapctl/snapctl/vem/directory/member"
)

// config writes a configuration of a member at unix sockets, and returns its path.
func config(t *testing.T) (member.Config, string) {
	t.Helper()
	dir := t.TempDir()
	c := member.Config{
		Name: "host", Dir: dir, Token: "t", TickMillis: 10, LogFileBytes: 1 << 20,
		ListenClient: []string{"unix://" + filepath.Join(dir, "client")},
		ListenPeer:   []string{"unix://" + filepath.Join(dir, "peer")},
	}
	b, err := json.Marshal(c)
	qt.Assert(t, qt.IsNil(err))
	path := filepath.Join(dir, "config.json")
	qt.Assert(t, qt.IsNil(os.WriteFile(path, b, 0o600)))
	return c, path
}

func TestServesUntilItIsAskedToEnd(t *testing.T) {
	c, path := config(t)
	ctx, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	code := make(chan int)
	go func() { code <- Main(ctx, []string{"serve", path}, io.Discard, t.Output()) }()
	m, err := member.Open(member.Options{Config: c})
	qt.Assert(t, qt.IsNil(err))
	defer m.Close()
	identity := filepath.Join(c.Dir, "identity.json")
	for tick := time.NewTicker(10 * time.Millisecond); ctx.Err() == nil; <-tick.C {
		if _, err := os.Stat(identity); err == nil {
			break
		}
	}
	backup := filepath.Join(c.Dir, "backup")
	_, err = m.Cluster().Backup(ctx, backup)
	qt.Assert(t, qt.IsNil(err))
	client, err := etcd.Dial(c.ListenClient, nil)
	qt.Assert(t, qt.IsNil(err))
	_, err = client.Put(ctx, "after", "backup")
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.IsNil(client.Close()))
	end()
	qt.Check(t, qt.Equals(<-code, 0))

	// The same folder, from the backup.
	again, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	qt.Check(t, qt.Equals(Main(again, []string{"restore", path, backup + ".none"}, &out, &out), 1))
	qt.Check(t, qt.Equals(Main(again, []string{"restore", path, backup}, &out, &out), 0), qt.Commentf("%s", &out))
	_, err = os.Stat(identity)
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"serve"}, {"serve", "a", "b"}, {"restore", "a"}, {"version", "x"}, {"--what"}} {
		var out bytes.Buffer
		qt.Check(t, qt.Equals(Main(t.Context(), args, &out, &out), 2), qt.Commentf("%q", args))
	}
	var out bytes.Buffer
	qt.Check(t, qt.Equals(Main(t.Context(), []string{"version"}, &out, &out), 0))
	qt.Check(t, qt.IsTrue(strings.HasPrefix(out.String(), "snapctl-directory ")))
	out.Reset()
	qt.Check(t, qt.Equals(Main(t.Context(), []string{"serve", "/does/not/exist"}, &out, &out), 1))
	qt.Check(t, qt.StringContains(out.String(), "/does/not/exist"))
}

func TestSettings(t *testing.T) {
	c, _ := config(t)
	c.Join, c.HistorySeconds = true, 60
	c.Cluster = []member.Peer{{Name: "a", URLs: []string{"http://1:1", "http://2:2"}}, {Name: "host", URLs: c.ListenPeer}}
	c, err := c.Complete()
	qt.Assert(t, qt.IsNil(err))
	conf, err := settings(c)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(conf.ClusterState, "existing"))
	qt.Check(t, qt.Equals(conf.InitialCluster, "a=http://1:1,a=http://2:2,host="+c.ListenPeer[0]))
	qt.Check(t, qt.Equals(conf.AutoCompactionRetention, "1m0s"))
	qt.Check(t, qt.IsFalse(conf.EnableGRPCGateway))
	qt.Check(t, qt.IsTrue(conf.PreVote))
	qt.Check(t, qt.Equals(files(&member.TLS{CAFile: "ca"}).TrustedCAFile, "ca"))
	c.AdvertisePeer = []string{"%"}
	_, err = settings(c)
	qt.Check(t, qt.IsNotNil(err))
}
