package vet

import (
	"testing"

	"github.com/go-quicktest/qt"
)

func TestOddLink(t *testing.T) {
	for link, odd := range map[string]bool{
		"/proc/1/task/7/stat": true, "/proc/1/task/7": true, "/proc/8": true,
		"/proc/1/task/1/stat": false, "/proc/1/task": false, "/proc/8/stat": false, "/data/proc/8": false, "/proc": false,
	} {
		_, ok := oddLink(link)
		qt.Check(t, qt.Equals(ok, odd), qt.Commentf("%s", link))
	}
}
