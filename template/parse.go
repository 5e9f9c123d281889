package template

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// maxRules bounds a file of rules, in bytes.
const maxRules = 1 << 20

// Parse reads rules from YAML and validates them. An unknown key is an error, and
// so are anchors, tags and more than one document. Nothing at all is the zero
// Rules. The error is [RuleErrors].
func Parse(text []byte) (*Rules, error) {
	d := &decoder{finder: finder{at: positions{"": {line: 1, column: 1}}}}
	r := &Rules{}
	if len(text) > maxRules {
		d.bad("", "%d bytes: rules are at most %d", len(text), maxRules)
		return nil, d.err()
	}
	root := d.load(text)
	if root != nil {
		d.decode("", root, reflect.ValueOf(r).Elem())
	}
	r.at = d.at
	if wrong, ok := errors.AsType[RuleErrors](r.Validate()); ok {
		d.add(wrong)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return r, nil
}

// add notes the problems that are not just what follows from those noted.
func (d *decoder) add(more RuleErrors) {
	noted := len(d.found)
	for _, p := range more {
		if !slices.ContainsFunc(d.found[:noted], func(q RuleError) bool { return within(p.Path, q.Path) || within(q.Path, p.Path) }) {
			d.found = append(d.found, p)
		}
	}
}

// decoder fills values from YAML, and notes where each was.
type decoder struct{ finder }

// load parses the one document of the text; nil is none, or a problem.
func (d *decoder) load(text []byte) *yaml.Node {
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		d.syntax(err)
		return nil
	}
	var doc, other yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		d.syntax(err)
		return nil
	}
	if err := loader.Load(&other); err == nil {
		d.at[""] = position{line: max(1, other.Line), column: max(1, other.Column)}
		d.bad("", "a second document: rules are one document")
		return nil
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err)
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil
	}
	if null(doc.Content[0]) {
		return nil
	}
	return doc.Content[0]
}

func (d *decoder) syntax(err error) {
	p := RuleError{Line: 1, Column: 1, Text: "not YAML: " + err.Error()}
	if at, ok := errors.AsType[*yaml.LoadError](err); ok {
		p.Text = "not YAML: " + at.Message
		if at.ContextMsg != "" {
			p.Text = "not YAML, " + at.ContextMsg + ": " + at.Message
		}
		if at.Mark.Line > 0 {
			p.Line, p.Column = at.Mark.Line, max(1, at.Mark.Column)
		}
	}
	d.found = append(d.found, p)
}

// null tells whether a value is missing, as in "env:".
func null(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// decode fills v with what n has. path says where in the rules that is.
func (d *decoder) decode(path string, n *yaml.Node, v reflect.Value) {
	d.at[path] = position{line: n.Line, column: n.Column, block: n.Style&yaml.LiteralStyle != 0}
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.bad(path, "anchors and aliases are not understood: write the value out")
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.bad(path, "tags such as %s are not understood", n.Tag)
		return
	}
	switch t := v.Type(); {
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		d.decode(path, n, v.Elem())
	case t == reflect.TypeFor[time.Duration]():
		d.duration(path, n, v)
	case t.Kind() == reflect.Struct:
		d.object(path, n, v)
	case t.Kind() == reflect.Map:
		d.mapping(path, n, v)
	case t.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.bad(path, "want a list, of lines that begin with \"- \"")
			return
		}
		v.Set(reflect.MakeSlice(t, len(n.Content), len(n.Content)))
		for i, item := range n.Content {
			d.decode(index(path, i), item, v.Index(i))
		}
	case t.Kind() == reflect.Bool:
		d.boolean(path, n, v)
	default:
		d.scalar(path, n, v)
	}
}

// object fills a struct by the names in its tags.
func (d *decoder) object(path string, n *yaml.Node, v reflect.Value) {
	fields := fieldsOf(v.Type())
	if n.Kind != yaml.MappingNode {
		d.bad(path, "want keys and values; the keys are %s", anyOf(fields))
		return
	}
	for key, value := range d.pairs(path, n) {
		i := slices.Index(fields, key.Value)
		if i < 0 {
			d.at[join(path, key.Value)] = position{line: key.Line, column: key.Column}
			d.bad(join(path, key.Value), "unknown key: use %s", anyOf(fields))
			continue
		}
		if null(value) {
			continue // as if it were not there
		}
		d.decode(join(path, key.Value), value, v.Field(i))
	}
}

// fieldsOf lists the keys of a struct, in order. Those without a tag come last.
func fieldsOf(t reflect.Type) []string {
	var all []string
	for f := range t.Fields() {
		if name := f.Tag.Get("yaml"); name != "" {
			all = append(all, name)
		}
	}
	return all
}

// mapping fills a map, whose keys the user chooses.
func (d *decoder) mapping(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.bad(path, "want lines of the form KEY: value")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for key, value := range d.pairs(path, n) {
		at := join(path, key.Value)
		item := reflect.New(v.Type().Elem()).Elem()
		if null(value) {
			d.at[at] = position{line: key.Line, column: key.Column}
			if item.Kind() != reflect.Struct {
				d.bad(at, "no value: for an empty one write \"\"")
				continue
			}
		} else {
			d.decode(at, value, item)
		}
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	}
}

// pairs yields the keys that are words, once each, and their values.
func (d *decoder) pairs(path string, n *yaml.Node) func(func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		seen := make(map[string]bool)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			problem := ""
			switch {
			case key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0 || key.ShortTag() == "!!merge":
				problem = "a key is a word"
			case seen[key.Value]:
				problem = "key \"" + key.Value + "\" a second time"
			}
			if problem != "" {
				d.found = append(d.found, RuleError{Line: key.Line, Column: key.Column, Path: path, Text: problem})
				continue
			}
			seen[key.Value] = true
			if !yield(key, value) {
				return
			}
		}
	}
}

// scalar fills a string. Numbers and booleans are taken as they are written: a
// port or a mode need not be quoted.
func (d *decoder) scalar(path string, n *yaml.Node, v reflect.Value) {
	var words []string
	if w, ok := reflect.TypeAssert[interface{ words() []string }](v); ok {
		words = w.words()
	}
	switch {
	case len(words) > 0 && (n.Kind != yaml.ScalarNode || n.Value == ""):
		d.bad(path, "want %s", anyOf(words)) // another word is found by Validate
	case n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle != 0:
		d.bad(path, "want a text; one that begins with \"{{\" has to be quoted, as '{{ .Name }}'")
	case n.Kind != yaml.ScalarNode:
		d.bad(path, "want a text")
	case null(n):
		d.bad(path, "no value: for an empty one write \"\"")
	default:
		v.SetString(n.Value)
	}
}

func (d *decoder) boolean(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || n.Value != "true" && n.Value != "false" {
		d.bad(path, "want true or false")
		return
	}
	v.SetBool(n.Value == "true")
}

func (d *decoder) duration(path string, n *yaml.Node, v reflect.Value) {
	took, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || took <= 0 {
		d.bad(path, "want a time such as 10s or 1m30s")
		return
	}
	v.SetInt(int64(took))
}

// keys lists the keys of a map in order.
func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// named lists the names that there are, for people.
func named(names []string) string {
	if len(names) == 0 {
		return "there are none"
	}
	return "there are " + strings.Join(names, ", ")
}
