package engine

import "github.com/snapctl/snapctl/runtime/storage"

// Kind is the kind of the engine's operations that has a name; nil if there is none.
func (eng *Engine) Kind(name string) *Kind { return eng.kinds.byName[name] }

// Needed is what apps and snapshots need.
func (eng *Engine) Needed() (storage.Needs, error) { return eng.needed() }

// Mounted is what apps have mounted.
func (eng *Engine) Mounted() []storage.Stack { return eng.mounted() }
