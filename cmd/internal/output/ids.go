package output

import "github.com/snapctl/snapctl/runtime/api"

// ID is one line of an app's id map.
type ID struct {
	Kind    string `json:"kind"`
	Virtual string `json:"virtual"` // as the app knows it
	Actual  string `json:"actual"`  // as the host knows it
	Detail  string `json:"detail,omitempty"`
}

// IDMap is what ids prints.
type IDMap struct {
	Schema
	App string `json:"app"`
	IDs []ID   `json:"ids"`
}

// NewIDMap reads the API's messages.
func NewIDMap(app string, ids []*api.Id) *IDMap {
	return &IDMap{Schema: schema(), App: app, IDs: convert(ids, func(id *api.Id) ID {
		return ID{Kind: id.GetKind(), Virtual: id.GetVirtual(), Actual: id.GetActual(), Detail: id.GetDetail()}
	})}
}

// Table implements [Document].
func (d *IDMap) Table(t *Table) {
	t.Rows([]string{"KIND", "VIRTUAL", "ACTUAL", "DETAIL"}, convert(d.IDs, func(id ID) []string {
		return []string{id.Kind, id.Virtual, id.Actual, id.Detail}
	}))
}
