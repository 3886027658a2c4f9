/* What the tests of the forgetting disk run: does what its arguments say in the directory that the first one names,
 * and kills itself. Any other letter than the words below writes 8 KiB of it to the end of the file `log`. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BYTES 8192

static int log_file = -1;

static int opened(void) {
    if (log_file < 0) log_file = open("log", O_RDWR | O_CREAT, 0600);
    return log_file;
}

static int names(void) {
    int fd = open(".", O_RDONLY | O_DIRECTORY);
    int done = fsync(fd);
    close(fd);
    return done;
}

int main(int count, char **words) {
    char bytes[BYTES];
    if (count < 2 || chdir(words[1]) < 0) return 1;
    for (int i = 2; i < count; i++) {
        const char *step = words[i];
        long done;
        if (!strcmp(step, "sync")) done = fdatasync(opened());
        else if (!strcmp(step, "try-sync")) done = fdatasync(opened()) * 0;
        else if (!strcmp(step, "names")) done = names();
        else if (!strcmp(step, "rename")) done = rename("log", "renamed");
        else if (!strcmp(step, "remove")) done = unlink("log");
        else if (!strcmp(step, "cut")) done = ftruncate(opened(), 100);
        else if (!strcmp(step, "allocate")) done = posix_fallocate(opened(), 0, 1 << 16);
        else if (!strcmp(step, "again")) done = pwrite(opened(), memset(bytes, 'z', BYTES), BYTES, 0);
        else done = write(opened(), memset(bytes, step[0], BYTES), BYTES);
        if (done < 0) {
            perror(step);
            return 1;
        }
    }
    kill(getpid(), SIGKILL);
}
