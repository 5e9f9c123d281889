package clone

import (
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/catalog"
)

func TestExpand(t *testing.T) {
	web := &catalog.Template{Name: "web"}
	none := func(string) bool { return false }
	names, err := expand(web, "", 3, 2, none)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(names, []string{"web-3", "web-4"}))
	_, err = expand(web, "no number", 1, 2, none)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
}

func TestChooseNames(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	first := Request{Count: 2}
	free, err := b.ChooseNames(web, &first)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(first.Names, []string{"web-1", "web-2"}))
	// Nobody else gets the names or the numbers, nor is the template removed.
	second := Request{Count: 1, Pattern: "a{n}"}
	freeSecond, err := b.ChooseNames(web, &second)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(second.Names, []string{"a3"}))
	_, err = b.ChooseNames(web, &Request{Count: 1, Start: 2})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	qt.Check(t, qt.ErrorIs(b.RemoveTemplate(t.Context(), "web"), errdefs.ErrFailedPrecondition))
	free()
	freeSecond()

	for name, test := range map[string]struct {
		names []string
		want  error
	}{
		"no name":     {[]string{"../x"}, errdefs.ErrInvalidArgument},
		"twice":       {[]string{"x", "x"}, errdefs.ErrInvalidArgument},
		"an app's":    {[]string{"x", "own"}, errdefs.ErrAlreadyExists},
		"chosen ones": {[]string{"x", "y"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			keep, err := b.Apps.Reserve("own")
			qt.Assert(t, qt.IsNil(err))
			defer keep()
			r := Request{Count: len(test.names), Names: slices.Clone(test.names)}
			free, err := b.ChooseNames(web, &r)
			if test.want == nil {
				qt.Assert(t, qt.IsNil(err))
				free()
			}
			qt.Check(t, qt.ErrorIs(err, test.want))
			// Whatever came of it, the number is free again.
			again := Request{Count: 1}
			free, err = b.ChooseNames(web, &again)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.DeepEquals(again.Names, []string{"web-1"}))
			free()
		})
	}
}

// More clones than addresses are refused before any is made. A few are not worth the look.
func TestRoom(t *testing.T) {
	b := open(t)
	web := b.template("web", "")
	for count, want := range map[int]string{
		roomFrom - 1: "", 120: "",
		121: `121 clones are too many: network blue \(10\.77\.0\.0/25\) has 120 free addresses`,
	} {
		r := Request{Count: count}
		free, err := b.ChooseNames(web, &r)
		if want != "" {
			qt.Check(t, qt.ErrorMatches(err, want))
			qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
			continue
		}
		qt.Assert(t, qt.IsNil(err))
		free()
	}
}
