package template

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
)

// Bounds of what a text may ask for.
const (
	maxRendered = 1 << 20 // bytes that one text becomes
	maxRandom   = 1 << 10 // bytes of one random secret
)

// data is what a text can refer to.
type data struct {
	Name       string
	Number     int
	Count      int
	Endpoint   string
	Endpoint6  string
	Network    string
	Template   string
	Hostname   string
	Generation string
	Set        map[string]string
}

// Functions are what a text can call besides text/template's own. Nothing gives
// access to the host: its environment, files and time are not there.
//
//	random N        a new secret of N random bytes, as hexadecimal digits
//	uuid            a new random UUID
//	add A B...      the sum of whole numbers
//	default D V     V, or D if V is empty or 0
//	upper S         S in upper case
//	lower S         S in lower case
func Functions() []string {
	all := make([]string, 0, len(functions))
	for name := range functions {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

var functions = template.FuncMap{
	"random":  random,
	"uuid":    newUUID,
	"add":     add,
	"default": orDefault,
	"upper":   strings.ToUpper,
	"lower":   strings.ToLower,
}

func random(n int) (string, error) {
	if n < 1 || n > maxRandom {
		return "", fmt.Errorf("%d bytes: want 1 to %d", n, maxRandom)
	}
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b), nil
}

// newUUID makes a UUID of version 4, RFC 9562.
func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// add takes numbers also from parameters, which are texts.
func add(numbers ...any) (int, error) {
	sum := 0
	for _, n := range numbers {
		v, err := strconv.Atoi(fmt.Sprint(n))
		if err != nil {
			return 0, fmt.Errorf("%q is not a whole number", fmt.Sprint(n))
		}
		sum += v
	}
	return sum, nil
}

func orDefault(d, v any) any {
	if truth, ok := template.IsTrue(v); ok && truth {
		return v
	}
	return d
}

// render makes the text of a clone.
func (t Text) render(d data) (string, error) {
	if t.static() {
		return string(t), nil
	}
	tmpl, err := t.compile()
	if err != nil {
		return "", err
	}
	var out limited
	if err := tmpl.Execute(&out, d); err != nil {
		return "", cause(err)
	}
	return out.String(), nil
}

// textName is the name of each text towards text/template, whose errors have it.
const textName = "text"

func (t Text) compile() (*template.Template, error) {
	tmpl, err := template.New(textName).Option("missingkey=error").Funcs(functions).Parse(string(t))
	if err != nil {
		return nil, cause(err)
	}
	return tmpl, nil
}

// textError is what is wrong with a text, and in which of its lines.
type textError struct {
	line int
	text string
}

func (e *textError) Error() string {
	if e.line > 1 {
		return fmt.Sprintf("in its line %d: %s", e.line, e.text)
	}
	return e.text
}

// templateError is an error of text/template: a line, sometimes a column, and
// names that say nothing here.
var templateError = regexp.MustCompile(`(?s)^template: ` + textName + `:(\d+)(?::\d+)?: (?:executing "` + textName + `" )?(.*)$`)

func cause(err error) error {
	m := templateError.FindStringSubmatch(err.Error())
	if m == nil {
		return &textError{line: 1, text: err.Error()}
	}
	line, _ := strconv.Atoi(m[1]) // digits
	return &textError{line: line, text: m[2]}
}

// limited is a buffer that does not take more than maxRendered.
type limited struct{ strings.Builder }

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > maxRendered {
		return 0, fmt.Errorf("it becomes longer than %d bytes", maxRendered)
	}
	return l.Builder.Write(b)
}

// check parses a text and looks for what is not there to refer to, also where
// this clone or that would not get to. set are the declared parameters; without
// them (nil) .Set can't be used.
func (t Text) check(set []string) error {
	if t.static() {
		return nil
	}
	tmpl, err := t.compile()
	if err != nil {
		return err
	}
	c := checker{set: set}
	for _, one := range tmpl.Templates() {
		// Of a text of its own ({{define}}), the dot is what it is called with.
		c.node(one.Root, one.Name() == textName)
	}
	return c.err
}

// checker walks over a parsed text.
type checker struct {
	set []string
	err error
}

// node checks a node and those below. dot tells whether the dot is the data.
func (c *checker) node(n parse.Node, dot bool) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, sub := range n.Nodes {
			c.node(sub, dot)
		}
	case *parse.ActionNode:
		c.node(n.Pipe, dot)
	case *parse.TemplateNode:
		c.node(n.Pipe, dot)
	case *parse.PipeNode:
		if n == nil {
			return
		}
		for _, cmd := range n.Cmds {
			for _, arg := range cmd.Args {
				c.node(arg, dot)
			}
		}
	case *parse.ChainNode:
		c.node(n.Node, dot)
	case *parse.IfNode:
		c.branch(&n.BranchNode, dot, dot)
	case *parse.RangeNode:
		c.branch(&n.BranchNode, dot, false)
	case *parse.WithNode:
		c.branch(&n.BranchNode, dot, false)
	case *parse.FieldNode:
		if dot {
			c.field(n.Ident)
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" && len(n.Ident) > 1 {
			c.field(n.Ident[1:])
		}
	}
}

func (c *checker) branch(n *parse.BranchNode, dot, inside bool) {
	c.node(n.Pipe, dot)
	c.node(n.List, inside)
	c.node(n.ElseList, dot)
}

func (c *checker) field(ident []string) {
	if c.err != nil {
		return
	}
	var all []string
	for f := range reflect.TypeFor[data]().Fields() {
		all = append(all, "."+f.Name)
	}
	switch {
	case !slices.Contains(all, "."+ident[0]):
		c.err = fmt.Errorf("there is no .%s: use %s", ident[0], anyOf(all))
	case ident[0] == "Set" && c.set == nil:
		c.err = errors.New(".Set can't be used here: it is not known yet")
	case ident[0] == "Set" && len(ident) > 1 && !slices.Contains(c.set, ident[1]):
		c.err = fmt.Errorf("there is no parameter %s: %s; declare it below parameters", ident[1], named(c.set))
	}
}
