/*
 * memory is an app that prepares memory of many shapes, waits to be saved and
 * restored, and then tells what its memory holds and what the kernel answers.
 * A test compares what it tells when it was restored in one way and another,
 * or never.
 *
 * It serves one client at a time on port 7000, line by line:
 *
 *	prepare [CASE...]   starts all or these cases; answer: ok, or an error
 *	act                 lets each go on; answer: a JSON list, an object a case
 *
 * Each case is a process of its own.
 */
#include "memory.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#define MAX_CASES 100

static const struct which *const groups[] = {
	advice_cases, remap_cases, map_cases, layout_cases, process_cases,
	io_cases, thread_cases, futex_cases, seccomp_cases,
};

struct running {
	const char *name;
	pid_t pid;
	int go, out;
};

static struct running running[MAX_CASES];
static int count;

static int run(const char *name)
{
	for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++)
		for (const struct which *w = groups[g]; w->name; w++)
			if (!strcmp(w->name, name)) {
				setvbuf(stdout, NULL, _IOLBF, 0);
				w->run();
				return 0;
			}
	fprintf(stderr, "memory: error: no case %s\n", name);
	return 2;
}

static void start(const char *name)
{
	int go[2], out[2];
	struct running *r = &running[count++];

	must(count <= MAX_CASES, "count cases");
	must(!pipe2(go, O_CLOEXEC) && !pipe2(out, O_CLOEXEC), "make pipes");
	r->name = name;
	r->go = go[1];
	r->out = out[0];
	r->pid = fork();
	must(r->pid >= 0, "fork");
	if (!r->pid) {
		dup2(go[0], 0);
		dup2(out[1], 1);
		execl("/proc/self/exe", "memory", "case", name, NULL);
		_exit(127);
	}
	close(go[0]);
	close(out[1]);
}

/* line reads a line from a pipe; NULL if it ended. */
static char *line(int fd)
{
	static char text[1 << 16];
	size_t n = 0;

	while (n < sizeof(text) - 1) {
		ssize_t got = read(fd, text + n, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return NULL;
		if (text[n] == '\n') {
			text[n] = 0;
			return text;
		}
		n++;
	}
	return NULL;
}

static void prepare(FILE *to, char *names)
{
	char *save = NULL, *name = strtok_r(names, " ", &save);

	if (name)
		for (; name; name = strtok_r(NULL, " ", &save))
			start(dup_text(name));
	else
		for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++)
			for (const struct which *w = groups[g]; w->name; w++)
				start(w->name);
	for (int i = 0; i < count; i++) {
		char *ready = line(running[i].out);

		if (!ready || strcmp(ready, "ready")) {
			fprintf(to, "error: case %s says %s\n", running[i].name, ready ? ready : "nothing");
			return;
		}
	}
	fprintf(to, "ok\n");
}

static void act(FILE *to)
{
	fprintf(to, "[");
	for (int i = 0; i < count; i++) {
		struct running *r = &running[i];
		char *text;
		int status;
		bool first = true;

		fprintf(to, "%s{\"case\":\"%s\",\"steps\":[", i ? "," : "", r->name);
		must(write(r->go, "g", 1) == 1, "let go on");
		while ((text = line(r->out))) {
			fprintf(to, "%s%s", first ? "" : ",", text);
			first = false;
		}
		close(r->go);
		close(r->out);
		must(waitpid(r->pid, &status, 0) == r->pid, "wait");
		if (WIFSIGNALED(status))
			fprintf(to, "],\"end\":\"signal %d\"}", WTERMSIG(status));
		else
			fprintf(to, "],\"end\":\"exit %d\"}", WEXITSTATUS(status));
	}
	count = 0;
	fprintf(to, "]\n");
}

static void serve(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(7000) };
	int yes = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	must(!setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)), "set SO_REUSEADDR");
	must(!bind(l, (struct sockaddr *)&at, sizeof(at)) && !listen(l, 16), "listen");
	for (;;) {
		int c = accept4(l, NULL, NULL, SOCK_CLOEXEC);
		char *text;
		FILE *to;

		if (c < 0)
			continue;
		to = fdopen(dup(c), "w");
		must(to, "open answer");
		while ((text = line(c))) {
			if (!strncmp(text, "prepare", 7))
				prepare(to, text + 7);
			else if (!strcmp(text, "act"))
				act(to);
			else
				fprintf(to, "error: no such command\n");
			fflush(to);
		}
		fclose(to);
		close(c);
	}
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !strcmp(argv[1], "case"))
		return run(argv[2]);
	if (argc == 2 && !strcmp(argv[1], "executed")) {
		executed();
		return 0;
	}
	serve();
}
