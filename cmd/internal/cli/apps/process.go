package apps

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
)

// processFlags are the flags of run and exec that describe a process.
type processFlags struct {
	env           []string
	workdir, user string
}

func (f *processFlags) add(fs *pflag.FlagSet) {
	fs.StringArrayVar(&f.env, "env", nil, "set a variable, `KEY[=VALUE]`; without a value pass on snapctl's own; repeatable")
	fs.StringVar(&f.workdir, "workdir", "", "`DIR` to start in (default /)")
	fs.StringVar(&f.user, "user", "", "`USER` to be: a name, UID or UID:GID (default root)")
}

// environment resolves the variables.
func (f *processFlags) environment(s *session.Session) ([]string, error) {
	var env []string
	for _, text := range f.env {
		v, err := variable(&s.World, text)
		if err != nil {
			return nil, err
		}
		env = append(env, v)
	}
	return env, nil
}

// variable reads KEY=VALUE, or KEY alone, whose value comes from snapctl's own
// environment.
func variable(w *session.World, text string) (string, error) {
	key, _, ok := strings.Cut(text, "=")
	if key == "" {
		return "", session.Usagef("--env %q has no name", text)
	}
	if ok {
		return text, nil
	}
	v, ok := w.Env(key)
	if !ok {
		return "", session.Usagef("--env %s: there is no such variable to take the value of", key)
	}
	return key + "=" + v, nil
}
