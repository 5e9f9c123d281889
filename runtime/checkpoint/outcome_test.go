package checkpoint

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

func TestReasons(t *testing.T) {
	qt.Check(t, qt.Equals(ofApp("cache", nil)(restore.Reset{}), "it belongs to app cache"))
	qt.Check(t, qt.Equals(ofApp("cache", nil)(restore.Reset{Inside: true}), "both of its ends were in app cache, and the snapshot has no state of it"))
	refused := []tcprepair.Refused{{Inode: 7, Reason: "it has urgent data"}}
	qt.Check(t, qt.Equals(ofApp("cache", refused)(restore.Reset{Inode: 7}), "app cache had it, and it can't be saved: it has urgent data"))
	qt.Check(t, qt.Equals(ofApp("cache", refused)(restore.Reset{Inode: 7, Inside: true}), "both of its ends were in app cache, but it can't be saved: it has urgent data"))
	qt.Check(t, qt.Equals(unheld("the host was started anew")(restore.Reset{}), "the host was started anew"))
	qt.Check(t, qt.ErrorMatches(Incomplete("wake", []Outcome{{Socket: "tcp a <- b", Reason: "why"}}), "wake: connections were reset: tcp a <- b: why"))
	qt.Check(t, qt.ErrorMatches(Incomplete("wake", []Outcome{{Socket: "tcp a <- b", Reason: "why"}, {}, {}}), "wake: connections were reset: tcp a <- b and 2 more: why"))
}
