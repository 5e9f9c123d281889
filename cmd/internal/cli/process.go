package cli

import "github.com/spf13/pflag"

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
func (f *processFlags) environment(s *session) ([]string, error) {
	var env []string
	for _, text := range f.env {
		v, err := s.variable(text)
		if err != nil {
			return nil, err
		}
		env = append(env, v)
	}
	return env, nil
}
