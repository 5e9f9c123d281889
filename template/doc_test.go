package template

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
)

// TEMPLATES.md has every key, field and function.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../TEMPLATES.md")
	qt.Assert(t, qt.IsNil(err))
	section := func(head string) string {
		_, body, ok := strings.Cut(string(text), "\n"+head+"\n")
		qt.Assert(t, qt.IsTrue(ok), qt.Commentf("%s", head))
		body, _, _ = strings.Cut(body, "\n## ")
		return body
	}
	rules, texts, file := section("## Rules"), section("### Texts"), section("## How a program learns that it was copied")
	for f := range reflect.TypeFor[Rules]().Fields() {
		name := f.Tag.Get("yaml")
		if name == "" {
			continue
		}
		qt.Check(t, qt.StringContains(rules, "\n| `"+name+"` | "))
		typ := f.Type
		for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() == reflect.Struct {
			for _, sub := range fieldsOf(typ) {
				qt.Check(t, qt.StringContains(rules, "`"+sub+"`"), qt.Commentf("%s", name))
			}
		}
	}
	for f := range reflect.TypeFor[data]().Fields() {
		qt.Check(t, qt.StringContains(texts, "`."+f.Name))
	}
	for _, name := range Functions() {
		qt.Check(t, qt.StringContains(texts, "`"+name))
	}
	for f := range reflect.TypeFor[InstanceFile]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		qt.Check(t, qt.StringContains(file, "\n| `"+name+"` | "))
	}
	qt.Check(t, qt.StringContains(file, InstancePath))
}
