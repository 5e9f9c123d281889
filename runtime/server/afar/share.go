package afar

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/template"
)

// place is a host that can make clones, and how much memory it has available.
type place struct {
	host   string
	memory int64
}

// divide divides a number of clones among hosts, by the memory that they have available: each next one goes to the host
// that has the most for each of those that it has already and of this one, which counts half (Sainte-Laguë's method).
// So hosts that are alike get as many each. Those that get none are left out.
func divide(places []place, count int) []part {
	parts := make([]part, len(places))
	for i, p := range places {
		parts[i].host = p.host
	}
	for range count {
		best, most := 0, -1.0
		for i, p := range places {
			if q := float64(max(1, p.memory)) / float64(2*parts[i].count+1); q > most {
				best, most = i, q
			}
		}
		parts[best].count++
	}
	return slices.DeleteFunc(parts, func(p part) bool { return p.count == 0 })
}

// part is what one host makes of a request for clones.
type part struct {
	host  string
	count int
	req   *api.CloneRequest
}

// assign gives each part of a request its names, numbers and addresses. The first number is start.
func assign(req *api.CloneRequest, parts []part, start int) {
	done := 0
	for i := range parts {
		p := &parts[i]
		p.req = proto.CloneOf(req)
		p.req.Host, p.req.Spread, p.req.Least = "", false, 0
		p.req.Count, p.req.Start = int32(p.count), int32(start+done) //nolint:gosec // at most a million, see package template
		if len(req.GetNames()) > 0 {
			p.req.Names = req.GetNames()[done : done+p.count]
		}
		if len(req.GetEndpoints()) > 0 {
			p.req.Endpoints = req.GetEndpoints()[done : done+p.count]
		}
		done += p.count
	}
}

// names are those of the clones of a request whose numbers are assigned. What is wrong with the pattern the host says
// that is asked.
func names(req *api.CloneRequest) []string {
	if len(req.GetNames()) > 0 {
		return req.GetNames()
	}
	p, err := pattern(req)
	if err != nil {
		return nil
	}
	list, _ := p.Expand(int(req.GetStart()), int(req.GetCount()), nil)
	return list
}

// pattern is that of the names of a request.
func pattern(req *api.CloneRequest) (template.NamePattern, error) {
	text := req.GetNamePattern()
	if text == "" {
		text = req.GetTemplate() + "-{n}"
	}
	return template.ParseNamePattern(text)
}

// countOf is how many clones a request wants.
func countOf(req *api.CloneRequest) int {
	count := int(req.GetCount())
	if count == 0 {
		count = max(1, len(req.GetNames()), len(req.GetEndpoints()))
	}
	return count
}
