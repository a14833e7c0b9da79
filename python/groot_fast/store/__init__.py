"""The store: one directory tree on BTRFS, shared by every process that uses it.

```
<store>/                        0700, owner (the host id of the images' root)
  images/<id>/                  0700
    image.json                  the image's configuration
    rootfs/                     the container's root file system: a snapshot, made last (its existence is the image's)
    snapshot/                   the same with --without-mount; rootfs/ is then an empty directory
    vol-<sha256 of the path>/   a directory for each volume the image declares
  volumes/<chain id>/           one subvolume a layer, holding all layers below it too
  volumes/<chain id>-incomplete-<nanos>-<random>/    being built
  volumes/gc.<name>/            to be destroyed
  meta/namespace.json           the store's id mappings
  meta/volume-<chain id>        {"Size": bytes of this layer's files, "TreeSize": bytes of all files one sees}
  meta/listing-<chain id>       what the layer did, for `check --deep`
  meta/dependencies/image:<id>.json   chain ids of the image, bottom to top
  meta/sources/<sha256 of the image's name>.json     what `clean --ignore-image` looks up
  meta/proofs/         who was given an image of which repository lately (`create.image_verification: cached`)
  locks/<key>.lock              flock; global-groot-lock, groot-gc-lock, one a chain id
  tmp/                          downloads (blob-<digest>), records before their rename
```

The layout is the original's last BTRFS one (contract, section 11.2); `meta/sources`, `meta/listing-*` and the key ``TreeSize`` are ours
and do not disturb it.

layout.py paths, records.py the files below meta/, locks.py, images.py create/delete/list/stats of images, volumes.py
building and publishing volumes, clean.py, check.py what is wrong, content.py what is wrong inside volumes, repair.py what can
be put right, report.py who uses the disk, setup.py init-store and delete-store, migrate.py simple quotas for a store that has
others.
"""
