/*
 * The load side of the benchmark: one operation kind, COUNT times, in DIR; prints nanoseconds an
 * operation (or bytes a second for the sequential rows). Runs single-threaded except for rand16.
 *
 *   workload OP DIR COUNT
 *   workload populate DIR COUNT PER-DIRECTORY
 *
 * populate makes directories of so many files each and prints a line for every 100,000 files.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MIB (1 << 20)

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void die(const char *what, const char *path)
{
	fprintf(stderr, "workload: %s %s: %s\n", what, path, strerror(errno));
	exit(1);
}

static char *dir;
static char path[4096], path2[4096];

static const char *file(const char *prefix, long i)
{
	snprintf(path, sizeof path, "%s/%s%08ld", dir, prefix, i);
	return path;
}

static void *aligned(size_t n)
{
	void *p;
	if (posix_memalign(&p, 4096, n))
		die("alloc", "");
	memset(p, 0x5a, n);
	return p;
}

static uint64_t rng_state = 88172645463325252ull;
static uint64_t rng(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static long file_blocks;
struct reader {
	pthread_t t;
	int fd;
	long n;
	uint64_t seed;
};

static void *random_reads(void *arg)
{
	struct reader *r = arg;
	char *buf = aligned(4096);
	for (long i = 0; i < r->n; i++)
		if (pread(r->fd, buf, 4096, (off_t)(rng(&r->seed) % file_blocks) * 4096) != 4096)
			die("pread", "random");
	free(buf);
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 4 && argc != 5)
		return 2;
	const char *op = argv[1];
	dir = argv[2];
	long n = atol(argv[3]);
	struct stat st;
	double t0 = now(), bytes = 0;

	if (!strcmp(op, "create")) {
		for (long i = 0; i < n; i++) {
			int fd = open(file("f", i), O_CREAT | O_EXCL | O_WRONLY, 0644);
			if (fd < 0)
				die("create", path);
			close(fd);
		}
	} else if (!strcmp(op, "populate") && argc == 5) {
		long per = atol(argv[4]);
		for (long i = 0; i < n; i++) {
			if (i % per == 0 && mkdir(file("d", i / per), 0755))
				die("mkdir", path);
			snprintf(path, sizeof path, "%s/d%08ld/f%08ld", dir, i / per, i);
			int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
			if (fd < 0)
				die("create", path);
			close(fd);
			if ((i + 1) % 100000 == 0 || i + 1 == n) {
				printf("%.1f\n", (now() - t0) / (i % 100000 + 1));
				fflush(stdout);
				t0 = now();
			}
		}
		return 0;
	} else if (!strcmp(op, "stat")) {
		for (long i = 0; i < n; i++)
			if (stat(file("f", i), &st))
				die("stat", path);
	} else if (!strcmp(op, "fstat")) {
		int fd = open(file("f", 0), O_RDONLY);
		if (fd < 0)
			die("open", path);
		t0 = now();
		for (long i = 0; i < n; i++)
			if (fstat(fd, &st))
				die("fstat", path);
		close(fd);
	} else if (!strcmp(op, "lsl") || !strcmp(op, "readdir")) {
		int with_stat = op[0] == 'l';
		long seen = 0;
		DIR *d = opendir(dir);
		struct dirent *e;
		if (!d)
			die("opendir", dir);
		while ((e = readdir(d))) {
			if (with_stat && fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
				die("fstatat", e->d_name);
			seen++;
		}
		closedir(d);
		if (seen < n)
			die("readdir saw too few entries in", dir);
		n = seen;
	} else if (!strcmp(op, "unlink")) {
		for (long i = 0; i < n; i++)
			if (unlink(file("f", i)))
				die("unlink", path);
	} else if (!strcmp(op, "mkdir")) {
		for (long i = 0; i < n; i++)
			if (mkdir(file("d", i), 0755))
				die("mkdir", path);
	} else if (!strcmp(op, "rmdir")) {
		for (long i = 0; i < n; i++)
			if (rmdir(file("d", i)))
				die("rmdir", path);
	} else if (!strcmp(op, "rename")) {
		for (long i = 0; i < n; i++) {
			strcpy(path2, file("f", i));
			if (rename(path2, file("r", i)))
				die("rename", path2);
		}
	} else if (!strcmp(op, "fsync")) {
		char *buf = aligned(4096);
		int fd = open(file("a", 0), O_CREAT | O_WRONLY | O_APPEND, 0644);
		if (fd < 0)
			die("open", path);
		t0 = now();
		for (long i = 0; i < n; i++)
			if (write(fd, buf, 4096) != 4096 || fsync(fd))
				die("append", path);
		close(fd);
	} else if (!strcmp(op, "seqwrite") || !strcmp(op, "seqread")) {
		int wr = op[3] == 'w';
		char *buf = aligned(MIB);
		int fd = open(file("big", 0), wr ? O_CREAT | O_TRUNC | O_WRONLY : O_RDONLY, 0644);
		if (fd < 0)
			die("open", path);
		t0 = now();
		for (long i = 0; i < n; i++)
			if ((wr ? write(fd, buf, MIB) : read(fd, buf, MIB)) != MIB)
				die("sequential", path);
		if (wr && fsync(fd))
			die("fsync", path);
		bytes = (double)n * MIB;
		close(fd);
	} else if (!strcmp(op, "rand1") || !strcmp(op, "rand16")) {
		int threads = op[4] == '1' && op[5] == '6' ? 16 : 1;
		struct reader r[16];
		int fd = open(file("big", 0), O_RDONLY | O_DIRECT);
		if (fd < 0)
			die("open", path);
		if (fstat(fd, &st))
			die("fstat", path);
		file_blocks = st.st_size / 4096;
		t0 = now();
		for (int i = 0; i < threads; i++) {
			r[i] = (struct reader){ .fd = fd, .n = n / threads, .seed = rng(&rng_state) };
			pthread_create(&r[i].t, NULL, random_reads, &r[i]);
		}
		for (int i = 0; i < threads; i++)
			pthread_join(r[i].t, NULL);
		n = n / threads * threads;
		close(fd);
	} else {
		return 2;
	}
	double t = now() - t0;
	printf("%.1f\n", bytes ? bytes / t * 1e9 : t / n);
	return 0;
}
