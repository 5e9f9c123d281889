/* Memory that the kernel reads and writes: files, pipes, sockets, rings. */
#include "memory.h"

#include <arpa/inet.h>
#include <linux/aio_abi.h>
#include <linux/errqueue.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* file is an open file with the content of an area. */
static int file(struct area a, int flags)
{
	char path[] = "/tmp/memory-XXXXXX";
	int fd = mkstemp(path), again;

	must(fd >= 0, "make file");
	must(write(fd, a.at, a.len) == (ssize_t)a.len && !fsync(fd), "write file");
	again = open(path, O_RDWR | O_CLOEXEC | flags);
	must(again >= 0 && !unlink(path) && !close(fd), "open file");
	return again;
}

/* like compares memory with an area whose content is named otherwise. */
static const char *like(const char *p, struct area a)
{
	return memcmp(p, a.at, a.len) ? "differs" : "same";
}

static void direct(void)
{
	struct area from = area(PAGES), to = area(PAGES), part_to = area(PAGES), other = area(PAGES);
	int fd;

	frozen();
	fd = file(other, O_DIRECT);
	note("write untouched memory", "%zd", pwrite(fd, from.at, from.len, 0));
	NOTE("read it back", pread(fd, to.at, to.len, 0), like(to.at, from));
	note("read a part", "%zd", pread(fd, part_to.at + 8 * PAGE, 16 * PAGE, 8 * (off_t)PAGE));
	note("is", "%s", like(part_to.at + 8 * PAGE, part(from, 8, 16)));
	TRY("around it", NEVER, part_to, 0);
	TRY("source", NEVER, from, 0);
	TRY("and dontneed", MAY_EINVAL, to, madvise(to.at, to.len, MADV_DONTNEED));
	memset(to.at, 0, to.len);
	NOTE("read again", pread(fd, to.at, to.len, 0), like(to.at, from));
	close(fd);
}

static void pipes(void)
{
	struct area a = area(PAGES), b = area(PAGES), c = area(PAGES), d = area(PAGES), e = area(PAGES);
	struct iovec v = { a.at, 8 * PAGE };
	char *buf = malloc(8 * PAGE);
	int p[2];

	must(buf && !pipe2(p, O_NONBLOCK), "make pipe");
	frozen();
	note("write", "%zd", write(p[1], a.at, 8 * PAGE));
	memset(buf, 0, 8 * PAGE);
	NOTE("read", read(p[0], buf, 8 * PAGE), like(buf, part(a, 0, 8)));
	note("vmsplice", "%zd", vmsplice(p[1], &v, 1, 0));
	NOTE("read", read(p[0], buf, 8 * PAGE), like(buf, part(a, 0, 8)));
	v.iov_base = c.at;
	note("vmsplice as a gift", "%zd", vmsplice(p[1], &v, 1, SPLICE_F_GIFT));
	NOTE("read", read(p[0], buf, 8 * PAGE), like(buf, part(c, 0, 8)));
	memset(c.at, 0, PAGE);
	TRY("gift written to after", NEVER, c, 0);
	note("fill the pipe", "%zd", write(p[1], a.at, 8 * PAGE));
	NOTE("read into", read(p[0], b.at + 4 * PAGE, 8 * PAGE), like(b.at + 4 * PAGE, part(a, 0, 8)));
	TRY("around it", NEVER, b, 0);
	note("fill the pipe", "%zd", write(p[1], a.at, 8 * PAGE));
	v = (struct iovec){ d.at, 8 * PAGE };
	NOTE("vmsplice into", vmsplice(p[0], &v, 1, 0), like(d.at, part(a, 0, 8)));
	/* To the end of the area and no further. */
	note("fill the pipe", "%zd", write(p[1], a.at, 8 * PAGE));
	note("read over the end", "%zd", read(p[0], e.at + e.len - 2 * PAGE, 8 * PAGE));
	TRY("before it", NEVER, part(e, 0, PAGES - 2), 0);
	TRY("source", NEVER, a, 0);
}

static void sockets(void)
{
	struct area from = area(PAGES), to = area(PAGES), zc = area(PAGES);
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int yes = 1, l, out, in = -1, u[2];

	frozen();
	l = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
	must(!bind(l, (struct sockaddr *)&at, len) && !listen(l, 1) && !getsockname(l, (struct sockaddr *)&at, &len), "listen");
	out = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
	must(!connect(out, (struct sockaddr *)&at, len) && (in = accept(l, NULL, NULL)) >= 0, "connect");
	note("send", "%zd", send(out, from.at, 8 * PAGE, 0));
	NOTE("receive", recv(in, to.at + PAGE, 8 * PAGE, MSG_WAITALL), like(to.at + PAGE, part(from, 0, 8)));
	must(!setsockopt(out, SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof(yes)), "set SO_ZEROCOPY");
	note("send zero-copy", "%zd", send(out, zc.at, 8 * PAGE, MSG_ZEROCOPY));
	NOTE("receive", recv(in, to.at + 20 * PAGE, 8 * PAGE, MSG_WAITALL), like(to.at + 20 * PAGE, part(zc, 0, 8)));
	memset(zc.at, 0, PAGE);
	must(!socketpair(AF_UNIX, SOCK_STREAM, 0, u), "make socket pair");
	note("send to a unix socket", "%zd", send(u[0], from.at, 8 * PAGE, 0));
	NOTE("receive", recv(u[1], to.at + 40 * PAGE, 8 * PAGE, MSG_WAITALL), like(to.at + 40 * PAGE, part(from, 0, 8)));
	TRY("around it", NEVER, to, 0);
	TRY("zero-copy source", NEVER, zc, 0);
	TRY("source", NEVER, from, 0);
}

static void aio(void)
{
	struct area to = area(PAGES), from = area(PAGES);
	aio_context_t ctx = 0;
	struct iocb cb[2] = { 0 }, *list[2] = { &cb[0], &cb[1] };
	struct io_event done[2];
	int fd;

	frozen();
	fd = file(from, O_DIRECT);
	must(!syscall(SYS_io_setup, 4, &ctx), "set up");
	for (int i = 0; i < 2; i++)
		cb[i] = (struct iocb){ .aio_fildes = (unsigned)fd, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_offset = 8 * i * (off_t)PAGE,
				       .aio_buf = (uintptr_t)to.at + (size_t)i * 30 * PAGE, .aio_nbytes = 8 * PAGE };
	note("submit", "%ld", syscall(SYS_io_submit, ctx, 2L, list));
	note("get", "%ld", syscall(SYS_io_getevents, ctx, 2L, 2L, done, NULL));
	note("read", "%s %s", like(to.at, part(from, 0, 8)), like(to.at + 30 * PAGE, part(from, 8, 8)));
	TRY("around it", NEVER, to, 0);
	syscall(SYS_io_destroy, ctx);
	close(fd);
}

/* A ring of io_uring, whose calls no seccomp filter sees. */
struct ring {
	int fd;
	struct io_uring_params p;
	char *at;
	struct io_uring_sqe *sqe;
};

static bool ring_open(struct ring *r)
{
	*r = (struct ring){ 0 };
	r->fd = (int)syscall(SYS_io_uring_setup, 4, &r->p);
	if (r->fd < 0)
		return false;
	must(r->p.features & IORING_FEAT_SINGLE_MMAP, "have one ring");
	r->at = mmap(NULL, r->p.cq_off.cqes + r->p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED,
		     r->fd, IORING_OFF_SQ_RING);
	r->sqe = mmap(NULL, r->p.sq_entries * sizeof(*r->sqe), PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQES);
	must(r->at != MAP_FAILED && r->sqe != MAP_FAILED, "map ring");
	return true;
}

/* ring_do has one thing done: -1 with errno, or what it answered. */
static long ring_do(struct ring *r, struct io_uring_sqe e)
{
	unsigned *tail = (unsigned *)(r->at + r->p.sq_off.tail), *head = (unsigned *)(r->at + r->p.cq_off.head);
	unsigned at = *tail & (r->p.sq_entries - 1);
	int res;

	r->sqe[at] = e;
	((unsigned *)(r->at + r->p.sq_off.array))[at] = at;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	must(syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1, "enter");
	res = ((struct io_uring_cqe *)(r->at + r->p.cq_off.cqes) + (*head & (r->p.cq_entries - 1)))->res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	errno = res < 0 ? -res : 0;
	return res < 0 ? -1 : res;
}

/* uring reads and writes registered buffers, which stay pinned, and gives
   advice, or does all that by other means. */
static void uring(void)
{
	struct area to = area(PAGES), from = area(PAGES), given = area(PAGES), written = area(PAGES);
	struct iovec v[2] = { { to.at, to.len }, { from.at, from.len } };
	struct io_uring_sqe e[2];
	char *check = malloc(16 * PAGE);
	struct ring r;
	bool able;
	int fd;

	must(check, "allocate");
	frozen();
	fd = file(from, 0);
	able = ring_open(&r);
	step("make a ring", able ? 0 : -1, MAY_EPERM, "", "");
	if (able)
		must(!syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_BUFFERS, v, 2), "register buffers");
	for (int i = 0; i < 2; i++)
		e[i] = (struct io_uring_sqe){ .opcode = i ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED, .fd = fd, .buf_index = (uint16_t)i,
					      .addr = i ? (uintptr_t)from.at + 16 * PAGE : (uintptr_t)to.at + 8 * PAGE, .len = 16 * PAGE };
	NOTE("read", able ? ring_do(&r, e[0]) : pread(fd, to.at + 8 * PAGE, 16 * PAGE, 0), like(to.at + 8 * PAGE, part(from, 0, 16)));
	note("write", "%ld", able ? ring_do(&r, e[1]) : pwrite(fd, from.at + 16 * PAGE, 16 * PAGE, 0));
	NOTE("file", pread(fd, check, 16 * PAGE, 0), like(check, part(from, 16, 16)));
	TRY("around it", NEVER, to, 0);
	TRY("source", NEVER, from, 0);
	fill(written);
	for (int i = 0; i < 2; i++) {
		struct area a = i ? written : given;
		struct io_uring_sqe advice = { .opcode = IORING_OP_MADVISE, .fd = -1, .addr = (uintptr_t)a.at,
					       .len = (uint32_t)a.len, .fadvise_advice = MADV_DONTNEED };

		TRY("dontneed", MAY_EINVAL, a, able ? ring_do(&r, advice) : madvise(a.at, a.len, MADV_DONTNEED));
	}
	if (able)
		close(r.fd);
}

static void *handler(void *arg)
{
	int fd = *(int *)arg;
	struct uffd_msg m;
	static char page[4096] __attribute__((aligned(4096)));
	struct uffdio_copy copy = { .src = (uintptr_t)page, .len = PAGE };

	memset(page, 7, sizeof(page));
	must(read(fd, &m, sizeof(m)) == sizeof(m), "read fault");
	copy.dst = m.arg.pagefault.address & ~(PAGE - 1);
	must(!ioctl(fd, UFFDIO_COPY, &copy), "resolve fault");
	return NULL;
}

static void uffd(void)
{
	struct area a = area(PAGES);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	char *fresh;
	pthread_t t;
	int fd;

	frozen();
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	must(fd >= 0 && !ioctl(fd, UFFDIO_API, &api), "open userfaultfd");
	fresh = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(fresh != MAP_FAILED, "map");
	r.range = (struct uffdio_range){ (uintptr_t)fresh, 4 * PAGE };
	must(!ioctl(fd, UFFDIO_REGISTER, &r), "register new memory");
	must(!pthread_create(&t, NULL, handler, &fd), "make thread");
	note("new memory", "%d", fresh[PAGE + 5]);
	pthread_join(t, NULL);
	r.range = (struct uffdio_range){ (uintptr_t)a.at, a.len };
	TRY("register", MAY_EINVAL, a, ioctl(fd, UFFDIO_REGISTER, &r));
	close(fd);
	TRY("after", NEVER, a, 0);
}

const struct which io_cases[] = {
	{ "direct", direct },
	{ "pipes", pipes },
	{ "sockets", sockets },
	{ "aio", aio },
	{ "io_uring", uring },
	{ "userfaultfd", uffd },
	{ 0 },
};
