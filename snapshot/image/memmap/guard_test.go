package memmap

import (
	"fmt"
	"strings"
	"testing"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/guard"
)

const tsync = 1 // SECCOMP_FILTER_FLAG_TSYNC

// filtered is a thread whose first filter is the nth, or that has none if n is -1.
func filtered(n int) *core.ThreadCoreEntry {
	if n < 0 {
		return &core.ThreadCoreEntry{SeccompMode: core.SeccompMode_disabled.Enum()}
	}
	return &core.ThreadCoreEntry{SeccompMode: core.SeccompMode_filter.Enum(), SeccompFilter: new(uint32(n))}
}

// TestGuardEdit writes the filters of a dump as the app's own (a letter) and
// guards (G), each with the place of the next.
func TestGuardEdit(t *testing.T) {
	for name, test := range map[string]struct {
		filters string // like "a>1 G b"; "a!" is one for all threads
		threads []int  // the first filter of each
		mapped  string // what each thread has with memory mapped, in order
		copied  string // and after it is copied
	}{
		"none":                       {"", []int{-1}, "G!", "-"},
		"none, threads":              {"", []int{-1, -1, -1}, "G! - -", "- - -"},
		"own":                        {"a>1 b", []int{0}, "G!,a,b", "a,b"},
		"own for all threads":        {"a!>1 b!", []int{0, -1, -1}, "G!,a!,b! - -", "a!,b! - -"},
		"each its own":               {"a b", []int{0, 1}, "G,a G,b", "a b"},
		"the same, one by one":       {"a", []int{0, 0}, "G,a G,a", "a a"},
		"only the first":             {"a", []int{0, -1}, "G,a G", "a -"},
		"only another":               {"a", []int{-1, 0}, "G G,a", "- a"},
		"shared end":                 {"a>1 b c>1", []int{0, 2}, "G,a,b G,c,b", "a,b c,b"},
		"old guard first":            {"G>1 a", []int{0}, "G!,a", "a"},
		"old guard alone":            {"G", []int{0}, "G!", "-"},
		"old guard alone, threads":   {"G!", []int{0, -1}, "G! -", "- -"},
		"old guard in the middle":    {"a>1 G>2 b", []int{0}, "G!,a,b", "a,b"},
		"old guard last":             {"a>1 G", []int{0}, "G!,a", "a"},
		"old guards everywhere":      {"G>1 G>2 a>3 G>4 G>5 b>6 G", []int{0}, "G!,a,b", "a,b"},
		"old guards, for all":        {"G!>1 a!>2 G!", []int{0, -1}, "G!,a! -", "a! -"},
		"old guards of each thread":  {"G>1 a G>3 b", []int{0, 2}, "G,a G,b", "a b"},
		"old guard of one thread":    {"G a", []int{0, 1}, "G G,a", "- a"},
		"filter that nobody has":     {"a b", []int{1}, "G!,b", "b"},
		"old guard that nobody has":  {"G a", []int{1}, "G!,a", "a"},
		"written in the other order": {"b a>0", []int{1}, "G!,a,b", "a,b"},
	} {
		t.Run(name, func(t *testing.T) {
			p := fakeProcess{pid: 10, vmas: []*vma.VmaEntry{anon(0, 512)}, extents: []image.Extent{stored(0, 512)}}
			for _, n := range test.threads {
				p.threads = append(p.threads, filtered(n))
			}
			images := writeDump(t, 1, nil, parseFilters(test.filters), p)
			view := newView(t, images)
			_, err := Map(t.Context(), view, Files{Pages: map[string]string{"pages-1.img": "key"}})
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(chains(t, view, 10, len(test.threads)), test.mapped))
			covers(t, view, guard.Range{Start: at(0), End: at(511)})

			view = newView(t, images)
			qt.Assert(t, qt.IsNil(Copy(t.Context(), view, nil)))
			qt.Check(t, qt.Equals(chains(t, view, 10, len(test.threads)), test.copied))
		})
	}
}

// parseFilters makes the filters that TestGuardEdit writes as a text.
func parseFilters(text string) (all []*seccomp.SeccompFilter) {
	for word := range strings.FieldsSeq(text) {
		name, next, chained := strings.Cut(word, ">")
		f := &seccomp.SeccompFilter{}
		if plain, ok := strings.CutSuffix(name, "!"); ok {
			name, f.Flags = plain, proto.Uint32(tsync)
		}
		if f.Filter = []byte(strings.Repeat(name, 8)); name == "G" {
			f.Filter = guard.Filter([]guard.Range{{Start: 0x1000, End: 0x2000}})
		}
		if chained {
			var n uint32
			if _, err := fmt.Sscan(next, &n); err != nil {
				panic(err)
			}
			f.Prev = &n
		}
		all = append(all, f)
	}
	return all
}

// filtersOf reads the filters of a view.
func filtersOf(t *testing.T, view *image.View) []*seccomp.SeccompFilter {
	t.Helper()
	data, err := view.Read("seccomp.img")
	if err != nil {
		return nil
	}
	img, err := image.Decode(data)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(img.Records, 1))
	all := &seccomp.SeccompEntry{}
	qt.Assert(t, qt.IsNil(proto.Unmarshal(img.Records[0].Message, all)))
	return all.GetSeccompFilters()
}

// chains says which filters the threads of a process have.
func chains(t *testing.T, view *image.View, pid uint32, threads int) string {
	t.Helper()
	filters := filtersOf(t, view)
	var out []string
	for i := range threads {
		img, err := image.Decode(readFile(t, view.Dir(), fmt.Sprintf("core-%d.img", pid+uint32(i))))
		qt.Assert(t, qt.IsNil(err))
		c := &core.CoreEntry{}
		qt.Assert(t, qt.IsNil(proto.Unmarshal(img.Records[0].Message, c)))
		thread := c.GetThreadCore()
		qt.Check(t, qt.DeepEquals(thread.ProtoReflect().GetUnknown(), unknown()))
		qt.Check(t, qt.Equals(thread.SeccompFilter != nil, thread.GetSeccompMode() == core.SeccompMode_filter))
		if thread.SeccompFilter == nil {
			out = append(out, "-")
			continue
		}
		var chain []string
		for n := thread.SeccompFilter; n != nil; n = filters[*n].Prev {
			f := filters[*n]
			name := "G"
			if !guard.Is(f.GetFilter()) {
				name = string(f.GetFilter()[:1])
			}
			if f.GetFlags()&tsync != 0 {
				name += "!"
			}
			chain = append(chain, name)
		}
		out = append(out, strings.Join(chain, ","))
	}
	return strings.Join(out, " ")
}

// covers proves that the last filter of a view is a guard of a range.
func covers(t *testing.T, view *image.View, r guard.Range) {
	t.Helper()
	filters := filtersOf(t, view)
	qt.Check(t, qt.DeepEquals(filters[len(filters)-1].GetFilter(), guard.Filter([]guard.Range{r})))
}

// Processes of one dump have guards of their own memory, and share filters of the
// app's.
func TestGuardEditOfSeveralProcesses(t *testing.T) {
	var all []fakeProcess
	for i := range uint32(3) {
		all = append(all, fakeProcess{
			pid: 10 * (i + 1), threads: []*core.ThreadCoreEntry{filtered(0)},
			vmas: []*vma.VmaEntry{anon(uint64(i)*1000, 512)}, extents: []image.Extent{stored(uint64(i)*1000, 512)},
		})
	}
	all[1].extents = []image.Extent{stored(1000, 20)} // too small
	view := newView(t, writeDump(t, 1, nil, parseFilters("G>1 a"), all...))
	_, err := Map(t.Context(), view, Files{Pages: map[string]string{"pages-1.img": "a", "pages-2.img": "b", "pages-3.img": "c"}})
	qt.Assert(t, qt.IsNil(err))
	for pid, want := range map[uint32]string{10: "G!,a", 20: "a", 30: "G!,a"} {
		qt.Check(t, qt.Equals(chains(t, view, pid, 1), want))
	}
	var programs [][]byte
	for _, f := range filtersOf(t, view)[2:] {
		programs = append(programs, f.GetFilter())
	}
	qt.Check(t, qt.DeepEquals(programs, [][]byte{
		guard.Filter([]guard.Range{{Start: at(0), End: at(511)}}), guard.Filter([]guard.Range{{Start: at(2000), End: at(2511)}}),
	}))
}
