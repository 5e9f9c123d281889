package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// rules are what the demo's clones differ by, inside.
const rules = `
hostname: "{{ .Name }}"
files:
  - path: /etc/motd
    template: "This is {{ .Name }}, number {{ .Number }} of {{ .Count }}, at {{ .Endpoint }}.\n"
`

// cloning makes a template of the redis, with its clients still connected, and
// clones of that.
func (s *show) cloning(ctx context.Context, crowd *crowd, count int) error {
	s.say("Cloning: redis gets %d MiB of data, and becomes a template; its clients stay.", dataMiB)
	if _, err := s.redis(ctx, endpoint, fmt.Sprintf("EVAL \"for i=1,%d do redis.call('SET','data:'..i,string.rep('x',1000)) end return 'OK'\" 0", dataMiB<<10)); err != nil {
		return err
	}
	file := s.h.Path("rules.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		return err
	}
	if err := s.snapctl(ctx, "template", "create", "web", "--from", "cache", "--rules", file); err != nil {
		return err
	}
	if err := s.snapctl(ctx, "clone", "web", "--count", strconv.Itoa(count)); err != nil {
		return err
	}
	if err := s.snapctl(ctx, "ps"); err != nil {
		return err
	}
	s.say("Each has all of the data, a copy of its own once it writes, and an address of its own.")
	if err := s.snapctl(ctx, "exec", "web-2", "--", "cat", "/etc/motd"); err != nil {
		return err
	}
	names := []string{"web"}
	for i := 1; i <= count; i++ {
		name := fmt.Sprintf("web-%d", i)
		names = append(names, name)
		address, err := s.address(ctx, name)
		if err != nil {
			return err
		}
		if _, err := s.redis(ctx, address, "SET who "+name); err != nil {
			return err
		}
		who, err := s.redis(ctx, address, "GET who")
		if err == nil && who != name {
			err = fmt.Errorf("clone %s says it is %q", name, who)
		}
		if err != nil {
			return err
		}
	}
	took := crowd.ask(ctx)
	fmt.Fprintf(s.out, "All %d clones answer and differ. The original's %d clients: all answered, the slowest after %d ms; errors so far: %d\n",
		count, len(crowd.clients), took.Milliseconds(), crowd.failed)
	for _, name := range names[1:] {
		if err := s.quiet(ctx, "rm", "--force", name); err != nil {
			return err
		}
	}
	return s.quiet(ctx, "template", "rm", "web")
}

// dataMiB is how much data the template has.
const dataMiB = 200

// redis sends one command to a redis and returns the answer.
func (s *show) redis(ctx context.Context, address, command string) (string, error) {
	conn, err := s.h.DialContext(ctx, "tcp", address+":6379")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return "", err
	}
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	if strings.HasPrefix(line, "$") && err == nil {
		line, err = in.ReadString('\n')
	}
	if err == nil && strings.HasPrefix(line, "-") {
		err = fmt.Errorf("redis: %s", strings.TrimSpace(line))
	}
	return strings.TrimSpace(line), err
}

// address asks where an app is.
func (s *show) address(ctx context.Context, name string) (string, error) {
	r, err := s.h.Snapctl(ctx, "show", name)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(r.Stdout) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "endpoint:" {
			return strings.TrimSuffix(f[1], ","), nil
		}
	}
	return "", fmt.Errorf("snapctl show %s: no endpoint in %q", name, r.Stdout)
}

// quiet runs a command and shows nothing.
func (s *show) quiet(ctx context.Context, args ...string) error {
	r, err := s.h.Snapctl(ctx, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("snapctl %s: %s", strings.Join(args, " "), r.Stderr)
	}
	return err
}
