package store

import (
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
)

var (
	restoring = Reason{Why: "an app is being restored from it", Remedy: "try again when that is done"}
	template  = Reason{Why: "template web is made of it", Remedy: "remove that first"}
)

func TestClaimKeepsASnapshot(t *testing.T) {
	b := open(t)
	b.write(t, "s")
	first, err := b.Claim("s", restoring)
	qt.Assert(t, qt.IsNil(err))
	second, err := b.Claim("s", restoring)
	qt.Assert(t, qt.IsNil(err))
	third, err := b.Claim("s", template)
	qt.Assert(t, qt.IsNil(err))
	first.Release()
	first.Release() // once more does nothing
	err = b.Remove("s")
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Assert(t, qt.ErrorMatches(err, "snapshot s is needed: an app is being restored from it; try again when that is done"))
	second.Release()
	qt.Assert(t, qt.ErrorMatches(b.Remove("s"), "snapshot s is needed: template web is made of it; remove that first"))
	third.Release()
	qt.Assert(t, qt.IsNil(b.Remove("s")))
	qt.Assert(t, qt.HasLen(b.claims, 0))
}

func TestClaimOfWhatIsBeingWritten(t *testing.T) {
	b := open(t)
	_, free, err := b.Reserve("s", "web")
	qt.Assert(t, qt.IsNil(err))
	_, err = b.Claim("s", restoring)
	qt.Assert(t, qt.ErrorMatches(err, "snapshot s: not found"))
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	expected := b.Expect("s", template)
	qt.Assert(t, qt.IsNil(os.Mkdir(string(b.Dir("s")), 0o700)))
	qt.Assert(t, qt.ErrorMatches(b.Remove("s"), "snapshot s: not found")) // it is still written
	free()
	qt.Assert(t, qt.ErrorIs(b.Remove("s"), errdefs.ErrFailedPrecondition))
	expected.Release()
	qt.Assert(t, qt.IsNil(b.Remove("s")))
}

func TestExclude(t *testing.T) {
	b := open(t)
	b.write(t, "s")
	mine, err := b.Claim("s", template)
	qt.Assert(t, qt.IsNil(err))
	other, err := b.Claim("s", restoring)
	qt.Assert(t, qt.IsNil(err))
	_, err = mine.Exclude()
	qt.Assert(t, qt.ErrorMatches(err, "snapshot s is needed: an app is being restored from it; .*"))
	other.Release()
	undo, err := mine.Exclude()
	qt.Assert(t, qt.IsNil(err))
	_, err = b.Claim("s", restoring)
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	_, err = mine.Exclude()
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	// Whoever changes his mind has his claim as before.
	undo()
	qt.Assert(t, qt.ErrorIs(b.Remove("s"), errdefs.ErrFailedPrecondition))
	undo, err = mine.Exclude()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(mine.Remove()))
	qt.Assert(t, qt.Equals(b.freed.Load(), 1))
	_, _, err = b.Reserve("s", "web")
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists)) // its name is still taken
	undo()
	b.write(t, "s")
	qt.Assert(t, qt.HasLen(b.claims, 0))
}

// Two claims with one reason are two claims.
func TestExcludeOfTheSameReason(t *testing.T) {
	b := open(t)
	one, two := b.Expect("s", template), b.Expect("s", template)
	_, err := one.Exclude()
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	two.Release()
	_, err = one.Exclude()
	qt.Assert(t, qt.IsNil(err))
}

func TestClaimRemovesWhatIsMissing(t *testing.T) {
	b := open(t)
	qt.Assert(t, qt.IsNil(b.Expect("s", template).Remove()))
	qt.Assert(t, qt.HasLen(b.claims, 0))
}
