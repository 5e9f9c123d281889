package e2e

import "testing"

func TestFilesSurvive(t *testing.T) {
	survive(t, map[string]trial{
		"files": {}, "deleted-file": {}, "memfd": {}, "flock": {}, "posix-lock": {}, "ofd-lock": {},
		"mapped-file": {}, "tmpfile": {}, "flags": {}, "aio": {}, "deleted-cwd": {},
	})
}
