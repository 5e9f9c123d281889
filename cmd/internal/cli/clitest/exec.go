package clitest

import (
	"fmt"
	"strings"

	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/runtime/api"
)

// Exec knows a few commands: cat, env, exit N, size, which prints the terminal's,
// and what prints its arguments on standard error.
func (f server) Exec(both grpc.BidiStreamingServer[api.ExecInput, api.ExecOutput]) error {
	first, err := both.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	f.mu.Lock()
	_, err = f.find(start.GetName())
	f.mu.Unlock()
	if err != nil {
		return err
	}
	code := int32(0)
	stdout := func(text string) error {
		return both.Send(&api.ExecOutput{Output: &api.ExecOutput_Stdout{Stdout: []byte(text)}})
	}
	switch args := start.GetArgs(); args[0] {
	case "cat":
		for {
			m, err := both.Recv()
			if err != nil {
				return err
			}
			if m.GetStdinClosed() {
				break
			}
			if err := stdout(string(m.GetStdin())); err != nil {
				return err
			}
		}
	case "env":
		err = stdout(strings.Join(start.GetEnv(), "\n") + "\n")
	case "exit":
		_, err = fmt.Sscan(args[1], &code)
	case "size":
		if err := stdout(fmt.Sprintf("%dx%d\n", start.GetRows(), start.GetColumns())); err != nil {
			return err
		}
		for {
			m, err := both.Recv()
			if err != nil {
				return err
			}
			if size := m.GetResize(); size != nil {
				if err := stdout(fmt.Sprintf("%dx%d\n", size.GetRows(), size.GetColumns())); err != nil {
					return err
				}
				break
			}
		}
	default:
		err = both.Send(&api.ExecOutput{Output: &api.ExecOutput_Stderr{Stderr: []byte(strings.Join(args, " ") + "\n")}})
	}
	if err != nil {
		return err
	}
	return both.Send(&api.ExecOutput{Output: &api.ExecOutput_ExitCode{ExitCode: code}})
}
