/*
 * ledger is an app with much memory of which somebody else knows every byte.
 *
 * Its pages are numbered; each is full of one word, made of its number and of when
 * it was written last. It serves one client at a time on port 7000, line by line:
 *
 *	write FROM COUNT WHEN   writes pages; answer: ok
 *	sum                     answer: ok and the FNV-1a digest of all words
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORDS 512UL /* of a page */

static uint64_t *memory;
static unsigned long pages;

static void answer(FILE *in, FILE *out)
{
	char line[256];
	unsigned long from, count, when;

	while (fgets(line, sizeof(line), in)) {
		if (sscanf(line, "write %lu %lu %lu", &from, &count, &when) == 3 && from + count <= pages) {
			for (unsigned long i = from * WORDS; i < (from + count) * WORDS; i++)
				memory[i] = when << 32 | i / WORDS;
			fprintf(out, "ok\n");
		} else if (!strncmp(line, "sum", 3)) {
			uint64_t sum = 0xcbf29ce484222325;

			for (unsigned long i = 0; i < pages * WORDS; i++)
				sum = (sum ^ memory[i]) * 0x100000001b3;
			fprintf(out, "ok %016lx\n", sum);
		} else {
			fprintf(out, "bad command\n");
		}
		fflush(out);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(7000)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1, conn;

	pages = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
	memory = mmap(NULL, pages * WORDS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(listener, (struct sockaddr *)&at, sizeof(at)) || listen(listener, 8)) {
		perror("listen");
		return 1;
	}
	while ((conn = accept(listener, NULL, NULL)) >= 0) {
		FILE *in = fdopen(conn, "r"), *out = fdopen(dup(conn), "w");

		answer(in, out);
		fclose(in);
		fclose(out);
	}
	perror("accept");
	return 1;
}
