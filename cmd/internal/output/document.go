// Package output is what snapctl prints: the documents, as JSON and as tables.
//
// A document is a plain struct made of the API's messages. Its JSON is a promise
// to scripts (JSON.md at the top of the repository): a document says its schema
// version, names are in snake_case and carry their unit, times are RFC 3339 in
// UTC, durations microseconds, arrays never null. The promise grows but is never
// broken: a field may come, none goes or changes its meaning. The tables are for
// people, and promise nothing.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// SchemaVersion is that of the JSON. It changes only if the promise is broken.
const SchemaVersion = 1

// Schema is the part that all documents have.
type Schema struct {
	Version int `json:"schema_version"`
}

func schema() Schema { return Schema{Version: SchemaVersion} }

// Document can be printed.
type Document interface {
	// Table writes the document for people.
	Table(t *Table)
}

// Format says how a document is printed.
type Format string

// The formats.
const (
	AsTable Format = "table"
	AsJSON  Format = "json"
)

// Write prints a document. now is what ages in tables are counted to. If it
// fails, a part may have been written.
func Write(w io.Writer, f Format, now time.Time, doc Document) error {
	return write(w, f, now, doc, "  ")
}

// WriteLine is Write, with the JSON in one line: for documents of which there are many.
func WriteLine(w io.Writer, f Format, now time.Time, doc Document) error {
	return write(w, f, now, doc, "")
}

func write(w io.Writer, f Format, now time.Time, doc Document, indent string) error {
	var b bytes.Buffer
	switch f {
	case AsJSON:
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", indent)
		if err := e.Encode(doc); err != nil {
			return fmt.Errorf("encode %T: %w", doc, err)
		}
	case AsTable:
		doc.Table(&Table{out: &b, now: now})
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// utc is the zero time for no timestamp.
func utc(ts *timestamppb.Timestamp) time.Time {
	if ts == nil {
		return time.Time{}
	}
	return ts.AsTime()
}

func microseconds(d *durationpb.Duration) int64 { return d.AsDuration().Microseconds() }

// list is s, but never null in JSON.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// convert applies f to each element of from.
func convert[From, To any](from []From, f func(From) To) []To {
	to := make([]To, len(from))
	for i, v := range from {
		to[i] = f(v)
	}
	return to
}
