/* snapshot SOURCE DIRECTORY NAME: make a writable BTRFS snapshot of SOURCE as DIRECTORY/NAME, and nothing else.
 *
 * The floor of a warm create: one process, three system calls. */
#include <fcntl.h>
#include <linux/btrfs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
    struct btrfs_ioctl_vol_args_v2 args = {0};
    int directory;

    if (argc != 4 || strlen(argv[3]) > BTRFS_SUBVOL_NAME_MAX) {
        fputs("usage: snapshot SOURCE DIRECTORY NAME\n", stderr);
        return 2;
    }
    args.fd = open(argv[1], O_RDONLY | O_DIRECTORY);
    directory = open(argv[2], O_RDONLY | O_DIRECTORY);
    strcpy(args.name, argv[3]);
    if (args.fd < 0 || directory < 0 || ioctl(directory, BTRFS_IOC_SNAP_CREATE_V2, &args) < 0) {
        perror("snapshot");
        return 1;
    }
    return 0;
}
