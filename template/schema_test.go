package template

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

// schemaNode is the part of JSON schema that rules.schema.json uses.
type schemaNode struct {
	Ref        string                 `json:"$ref"`
	Type       any                    `json:"type"`
	Enum       []string               `json:"enum"`
	Properties map[string]*schemaNode `json:"properties"`
	Additional json.RawMessage        `json:"additionalProperties"` //nolint:tagliatelle // JSON schema's name
	Items      *schemaNode            `json:"items"`
	AnyOf      []*schemaNode          `json:"anyOf"` //nolint:tagliatelle // JSON schema's name
	Defs       map[string]*schemaNode `json:"$defs"`
}

// The schema has the same keys, words and shapes as the rules.
func TestSchemaIsInStep(t *testing.T) {
	var root schemaNode
	qt.Assert(t, qt.IsNil(json.Unmarshal(Schema(), &root)))
	inStep(t, &root, "", &root, reflect.TypeFor[Rules]())
}

func inStep(t *testing.T, root *schemaNode, path string, s *schemaNode, typ reflect.Type) {
	t.Helper()
	const defs = "#/$defs/"
	if s != nil && len(s.Ref) > len(defs) {
		s = root.Defs[s.Ref[len(defs):]]
	}
	if s == nil {
		t.Errorf("%s: the schema does not have it", path)
		return
	}
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if w, ok := reflect.TypeAssert[interface{ words() []string }](reflect.Zero(typ)); ok {
		qt.Check(t, qt.DeepEquals(s.Enum, w.words()), qt.Commentf("%s", path))
		return
	}
	kinds := []any{s.Type}
	if several, ok := s.Type.([]any); ok {
		kinds = several
	}
	for _, other := range s.AnyOf {
		kinds = append(kinds, other.Type)
	}
	is := func(kind string) {
		t.Helper()
		qt.Check(t, qt.IsTrue(slices.Contains(kinds, any(kind))), qt.Commentf("%s: %v is no %s", path, kinds, kind))
	}
	switch {
	case typ == reflect.TypeFor[time.Duration](), typ.Kind() == reflect.String:
		is("string")
	case typ.Kind() == reflect.Bool:
		is("boolean")
	case typ.Kind() == reflect.Slice:
		is("array")
		inStep(t, root, path+"[]", s.Items, typ.Elem())
	case typ.Kind() == reflect.Map:
		is("object")
		var item schemaNode
		qt.Assert(t, qt.IsNil(json.Unmarshal(s.Additional, &item)))
		inStep(t, root, path+".*", &item, typ.Elem())
	case typ.Kind() == reflect.Struct:
		is("object")
		qt.Check(t, qt.Equals(string(s.Additional), "false"), qt.Commentf("%s", path))
		qt.Check(t, qt.DeepEquals(keys(s.Properties), slices.Sorted(slices.Values(fieldsOf(typ)))), qt.Commentf("%s", path))
		for f := range typ.Fields() {
			if name := f.Tag.Get("yaml"); name != "" {
				inStep(t, root, path+"."+name, s.Properties[name], f.Type)
			}
		}
	default:
		t.Errorf("%s: unknown kind %s", path, typ)
	}
}
