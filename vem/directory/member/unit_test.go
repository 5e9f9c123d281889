package member

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

func sound() Config {
	return Config{
		Name: "a", Dir: "/x", Token: "t",
		ListenClient: []string{"unix:///x/client", "https://192.0.2.1:2379"}, ListenPeer: []string{"https://192.0.2.1:2380"},
		ClientTLS: nil, PeerTLS: &TLS{CertFile: "c", KeyFile: "k", CAFile: "ca"},
	}
}

func TestConfigIsCompleted(t *testing.T) {
	c := sound()
	c.ListenClient = c.ListenClient[:1]
	got, err := c.Complete()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(got.AdvertiseClient, c.ListenClient))
	qt.Check(t, qt.DeepEquals(got.AdvertisePeer, c.ListenPeer))
	qt.Check(t, qt.DeepEquals(got.Cluster, []Peer{{Name: "a", URLs: c.ListenPeer}}))
	qt.Check(t, qt.Equals(got.QuotaBytes, int64(DefaultQuotaBytes)))
	qt.Check(t, qt.Equals(got.TickMillis, 100))
	qt.Check(t, qt.Equals(got.HistorySeconds, 3600))
	qt.Check(t, qt.Equals(got.endpoint(), "unix:///x/client"))

	path := filepath.Join(t.TempDir(), "config.json")
	qt.Assert(t, qt.IsNil(writeJSON(path, got)))
	again, err := ReadConfig(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(again, got))
}

func TestConfigThatMakesNoSense(t *testing.T) {
	for name, spoil := range map[string]func(c *Config){
		"no name":             func(c *Config) { c.Name = "" },
		"no token":            func(c *Config) { c.Token = "" },
		"relative folder":     func(c *Config) { c.Dir = "x" },
		"negative quota":      func(c *Config) { c.QuotaBytes = -1 },
		"nowhere":             func(c *Config) { c.ListenClient = nil },
		"no certificate":      func(c *Config) { c.PeerTLS = nil },
		"certificate ignored": func(c *Config) { c.ListenPeer[0] = "http://192.0.2.1:2380" },
		"no scheme":           func(c *Config) { c.ListenPeer[0] = "192.0.2.1:2380" },
		"no URL":              func(c *Config) { c.ListenPeer[0] = "%" },
		"not in its cluster":  func(c *Config) { c.Cluster = []Peer{{Name: "b"}} },
	} {
		c := sound()
		spoil(&c)
		_, err := c.Complete()
		qt.Check(t, qt.IsNotNil(err), qt.Commentf("%s", name))
	}
	_, err := ReadConfig(filepath.Join(t.TempDir(), "none"))
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
}

// The lines are those of etcd 3.7.3 and Go 1.26.
func TestReasonIsReadFromTheLog(t *testing.T) {
	start := `{"level":"INFO","msg":"` + Started + `"}` + "\n"
	for name, test := range map[string]struct {
		log    string
		reason Reason
		said   string
	}{
		"nothing":       {start + `{"level":"info","msg":"x"}`, ReasonUnknown, ""},
		"disk full":     {start + `{"level":"fatal","msg":"failed to save Raft hard state and entries","error":"write x: no space left on device"}` + "\nexit", ReasonDiskFull, "failed to save Raft hard state and entries: write x: no space left on device"},
		"panic":         {start + "panic: freepages: failed to get all reachable pages\n\ngoroutine 1", ReasonOther, "panic: freepages: failed to get all reachable pages"},
		"the last":      {start + `{"level":"error","msg":"a"}` + "\n" + `{"level":"error","msg":"b"}`, ReasonOther, "b"},
		"it served":     {start + `{"level":"error","msg":"a"}` + "\n" + `{"msg":"` + Serves + `"}`, ReasonUnknown, ""},
		"told":          {start + `{"level":"INFO","msg":"` + Told + `"}` + "\n" + `{"level":"error","msg":"closed"}`, ReasonTold, ""},
		"of the last":   {start + `{"level":"error","msg":"no space left on device"}` + "\n" + start, ReasonUnknown, ""},
		"the one known": {start + `{"level":"error","msg":"x","error":"listen tcp: bind: address already in use"}` + "\n" + `{"level":"error","msg":"y"}`, ReasonPortInUse, "x: listen tcp: bind: address already in use"},
		"removed":       {start + `{"level":"warn","msg":"server error","error":"the member has been permanently removed from the cluster"}` + "\n" + `{"level":"ERROR","msg":"member ends","error":"etcd stopped"}`, ReasonRemoved, "server error: the member has been permanently removed from the cluster"},
	} {
		reason, said := explain([]byte(test.log))
		qt.Check(t, qt.Equals(reason, test.reason), qt.Commentf("%s", name))
		qt.Check(t, qt.Equals(said, test.said), qt.Commentf("%s", name))
	}
	for r := ReasonUnknown; r <= ReasonOther; r++ {
		e := &EndError{Reason: r, Said: "said", Log: "/log"}
		qt.Check(t, qt.StringContains(e.Error(), r.String()))
		qt.Check(t, qt.StringContains(e.Error(), "/log"))
	}
	qt.Check(t, qt.Equals(why(filepath.Join(t.TempDir(), "none"), 0).Reason, ReasonOther))
}

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	qt.Assert(t, qt.IsNil(trimLog(path)))
	content := append(bytes.Repeat([]byte("0123456789abcde\n"), logMax/16), "the end\n"...)
	qt.Assert(t, qt.IsNil(os.WriteFile(path, content, 0o600)))
	writer, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	qt.Assert(t, qt.IsNil(err))
	defer writer.Close()
	qt.Assert(t, qt.IsNil(trimLog(path)))
	old, err := os.ReadFile(path + ".old")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(len(old), logKeep))
	qt.Check(t, qt.IsTrue(bytes.HasSuffix(old, []byte("the end\n"))))
	_, err = writer.WriteString("goes on\n")
	qt.Assert(t, qt.IsNil(err))
	now, err := os.ReadFile(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(now), "goes on\n"))
}

func TestVerifyFindsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "backup")
	content := bytes.Repeat([]byte("x"), 8192)
	sum := sha256.Sum256(content)
	for name, test := range map[string]struct {
		file []byte
		ok   bool
	}{
		"whole":      {append(bytes.Clone(content), sum[:]...), true},
		"empty":      {nil, false},
		"no digest":  {content, false},
		"cut":        {append(bytes.Clone(content[:4096]), sum[:]...), false},
		"cut digest": {append(bytes.Clone(content), sum[:31]...), false},
	} {
		qt.Assert(t, qt.IsNil(os.WriteFile(path, test.file, 0o600)))
		_, err := Verify(path)
		if test.ok {
			qt.Check(t, qt.IsNil(err), qt.Commentf("%s", name))
		} else {
			qt.Check(t, qt.ErrorIs(err, ErrDigest), qt.Commentf("%s", name))
		}
	}
}

func TestWriteIsWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	qt.Assert(t, qt.IsNil(writeJSON(path, 1)))
	var bad *json.UnsupportedTypeError
	qt.Check(t, qt.ErrorAs(writeJSON(path, func() {}), &bad))
	qt.Check(t, qt.ErrorIs(writeJSON(filepath.Join(dir, "none", "file"), 1), os.ErrNotExist))
	got, err := os.ReadFile(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(got), "1\n"))
}

func TestQuorum(t *testing.T) {
	up, down, learner := Peerage{Answers: true}, Peerage{}, Peerage{Learner: true}
	qt.Check(t, qt.IsNil(enough([]Peerage{up, up, down, learner})))
	qt.Check(t, qt.IsNil(enough([]Peerage{up})))
	qt.Check(t, qt.ErrorIs(enough([]Peerage{up, down}), ErrQuorum))
	qt.Check(t, qt.ErrorIs(enough(nil), ErrQuorum))
}
