package afar

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

func TestDivide(t *testing.T) {
	for name, test := range map[string]struct {
		places []place
		count  int
		want   map[string]int
	}{
		"alike":       {[]place{{"a", 8}, {"b", 8}, {"c", 8}}, 6, map[string]int{"a": 2, "b": 2, "c": 2}},
		"a remainder": {[]place{{"a", 8}, {"b", 8}, {"c", 8}}, 4, map[string]int{"a": 2, "b": 1, "c": 1}},
		"by memory":   {[]place{{"a", 30}, {"b", 10}}, 8, map[string]int{"a": 6, "b": 2}},
		"too few":     {[]place{{"a", 30}, {"b", 10}}, 1, map[string]int{"a": 1}},
		"nothing":     {[]place{{"a", 0}, {"b", 0}}, 2, map[string]int{"a": 1, "b": 1}},
		"alone":       {[]place{{"a", 1}}, 3, map[string]int{"a": 3}},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(map[string]int)
			for _, p := range divide(test.places, test.count) {
				got[p.host] = p.count
			}
			qt.Check(t, qt.DeepEquals(got, test.want))
		})
	}
}

// Names, numbers and addresses are given out in their order, and none twice.
func TestAssign(t *testing.T) {
	parts := []part{{host: "a", count: 2}, {host: "b", count: 1}}
	req := &api.CloneRequest{Template: "web", Count: 3, Spread: true, Least: 4, Set: map[string]string{"MODE": "test"}}
	assign(req, parts, 7)
	qt.Check(t, qt.DeepEquals(names(parts[0].req), []string{"web-7", "web-8"}))
	qt.Check(t, qt.DeepEquals(names(parts[1].req), []string{"web-9"}))
	for _, p := range parts {
		qt.Check(t, qt.IsFalse(p.req.GetSpread()))
		qt.Check(t, qt.Equals(p.req.GetLeast(), 0))
		qt.Check(t, qt.Equals(int(p.req.GetCount()), p.count))
		qt.Check(t, qt.DeepEquals(p.req.GetSet(), req.GetSet()))
	}
	req = &api.CloneRequest{Template: "web", Names: []string{"x", "y", "z"}, Endpoints: []string{"10.77.0.7", "10.77.0.8", "10.77.0.70"}, Spread: true}
	qt.Check(t, qt.Equals(countOf(req), 3))
	assign(req, parts, 1)
	qt.Check(t, qt.DeepEquals(names(parts[0].req), []string{"x", "y"}))
	qt.Check(t, qt.DeepEquals(parts[1].req.GetNames(), []string{"z"}))
	qt.Check(t, qt.DeepEquals(parts[1].req.GetEndpoints(), []string{"10.77.0.70"}))
	qt.Check(t, qt.Equals(countOf(&api.CloneRequest{}), 1))
	qt.Check(t, qt.HasLen(names(&api.CloneRequest{NamePattern: "{x}", Count: 1}), 0))
}

// An app is woken where it is unless another host has notably more room.
func TestRoomiest(t *testing.T) {
	for name, test := range map[string]struct {
		places []place
		want   string
	}{
		"alike":             {[]place{{"other", 100}, {"self", 100}}, "self"},
		"a little more":     {[]place{{"other", 105}, {"self", 100}}, "self"},
		"more":              {[]place{{"other", 120}, {"third", 119}, {"self", 100}}, "other"},
		"this one has most": {[]place{{"self", 100}, {"other", 90}}, "self"},
		"this one is full":  {[]place{{"other", 5}, {"self", 0}}, "other"},
	} {
		t.Run(name, func(t *testing.T) { qt.Check(t, qt.Equals(roomiest("self", test.places), test.want)) })
	}
}
