package hosts

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

func exampleDirectory() *api.Directory {
	member := func(host string, port uint32) *api.DirectoryMember {
		return &api.DirectoryMember{Host: host, Id: strings.Repeat(host[5:], 16), Urls: []string{fmt.Sprintf("https://192.0.2.%d:7078", port)}}
	}
	a, b := member("host-a", 7), member("host-b", 8)
	a.Self, a.Answers, a.Leads, a.Version, a.SizeBytes, a.InUseBytes, a.QuotaBytes = true, true, true, "3.7.3", 24<<20, 4<<20, 2<<30
	return &api.Directory{Urls: []string{a.Urls[0], b.Urls[0]}, Members: []*api.DirectoryMember{a, b}}
}

// What is printed is what JSON.md has.
func TestDocuments(t *testing.T) {
	for name, doc := range map[string]output.Document{
		"host-leave":            newLeftDocument("host-a"),
		"host-directory-status": newDirectoryDocument(exampleDirectory()),
		"host-directory-backup": newBackupDocument(&api.DirectoryBackup{Path: "/root/directory.backup", SizeBytes: 98_336, Sha256: strings.Repeat("0f", 32)}),
	} {
		var b bytes.Buffer
		qt.Assert(t, qt.IsNil(output.Write(&b, output.AsJSON, time.Unix(0, 0), doc)))
		want, err := os.ReadFile(filepath.Join("..", "..", "output", "testdata", name+".json"))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(b.String(), string(want)))
	}
}

func TestNotes(t *testing.T) {
	d := exampleDirectory()
	d.Leaderless = "no leader"
	d.Members[0].Full = true
	d.Members[0].Error = "ended"
	d.Members[1].Corrupt, d.Members[1].Host = true, ""
	doc := newDirectoryDocument(d)
	qt.Check(t, qt.HasLen(doc.Notes, 5), qt.Commentf("%q", doc.Notes))
	qt.Check(t, qt.Equals(doc.Members[0].state(), "full"))
	qt.Check(t, qt.Equals(doc.Members[1].state(), "not started"))
}
