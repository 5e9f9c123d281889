package template

import _ "embed"

//go:embed rules.schema.json
var schema []byte

// Schema is the JSON schema of rules (2020-12), for editors and other programs.
// It says what [Parse] takes, as far as a schema can.
func Schema() []byte { return append([]byte(nil), schema...) }
