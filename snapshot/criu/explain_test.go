package criu

import (
	"errors"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestErrorIsPlain(t *testing.T) {
	for name, test := range map[string]struct {
		err  Error
		want string
	}{
		"size": {Error{Op: "restore", Lines: []string{
			"(criu/files-reg.c:2175): File srv/my data/rows.db has bad size 8192 (expect 4096)", "(criu/cr-restore.c:2331): Restoring FAILED.",
		}}, "CRIU could not make the processes again: file /srv/my data/rows.db, which a process has open or mapped, has 8192 bytes, and had 4096 when the app was saved"},
		"mode":     {Error{Op: "restore", Lines: []string{"(criu/files-reg.c:2294): File usr/bin/x has bad mode 0100644 (expect 0100755)"}}, "CRIU could not make the processes again: file /usr/bin/x, which a process has open or mapped, has mode 0100644, and had 0100755 when the app was saved"},
		"build":    {Error{Op: "restore", Lines: []string{"(criu/files-reg.c:2146): File /lib/x.so has bad build-ID length 20 (expect 8)"}}, "CRIU could not make the processes again: file /lib/x.so, which a process has open or mapped, is of another build than when the app was saved"},
		"gone":     {Error{Op: "restore", Lines: []string{"(criu/files-reg.c:2353): Can't open file dev/state on restore: No such file or directory"}}, "CRIU could not make the processes again: file /dev/state, which a process has open or mapped, can't be opened any more: No such file or directory"},
		"message":  {Error{Op: "restore", Message: "(criu/files-reg.c:2267): Can't open file dev/state: Permission denied"}, "CRIU could not make the processes again: file /dev/state, which a process has open or mapped, can't be opened any more: Permission denied"},
		"unknown":  {Error{Op: "dump", Lines: []string{"(criu/x.c:1): Something odd"}}, "CRIU could not save the processes"},
		"our side": {Error{Op: "dump", Err: errors.New("it was ended")}, "CRIU could not save the processes: it was ended"},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Check(t, qt.Equals(test.err.Error(), test.want))
			qt.Check(t, qt.DeepEquals(test.err.Details(), append(append([]string(nil), nonEmpty(test.err.Message)...), test.err.Lines...)))
		})
	}
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}
