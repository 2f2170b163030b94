/* Counts the guest instructions that qemu-user executes, into a file that the guest reads while it runs.
 *
 * Written for QEMU's plugin interface, version 1 (QEMU 4.2 and later; Debian ships no header for it):
 *     qemu-aarch64 -plugin libcounter.so,into=PATH ...
 * The first eight bytes of the file hold the count, in the byte order of the host. Threads of the guest add without a lock, so
 * counts are exact while one thread works.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_info_t;
struct qemu_plugin_tb;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                                  void (*callback)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, enum qemu_plugin_op op,
                                                     void *pointer, uint64_t value);

EXPORT int qemu_plugin_version = 1;

static uint64_t *count;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, count, qemu_plugin_tb_n_insns(block));
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info, int argc, char **argv)
{
    const char *path = NULL;
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "into=", 5) == 0) {
            path = argv[i] + 5;
        }
    }
    if (path == NULL) {
        fprintf(stderr, "counter: say where to count: -plugin libcounter.so,into=PATH\n");
        return 1;
    }
    int descriptor = open(path, O_RDWR);
    if (descriptor < 0 || ftruncate(descriptor, sizeof *count) != 0) {
        perror("counter");
        return 1;
    }
    count = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (count == MAP_FAILED) {
        perror("counter");
        return 1;
    }
    *count = 0;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
