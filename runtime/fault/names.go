package fault

// Name is the name of a point: the operation, a dot, and the step that it has come to. The
// tables of the operations have the names, see package journal.
type Name string
