"""A cell's load on a store: users, shapes, limits of a volume, and a verdict. `python -m loadtests --help`.

What happens in a run, and where it is written:

    cli         options to a plan
    runs        a run from start to verdict: store, warm-up, throttle, sampler, locust, what is left behind
    locustfile  what locust loads in its own processes: users (cell), shapes, journal
    doors       how a user reaches groot_fast (command, API) or buildah
    samples     once a second: device, BTRFS, memory, processor
    figures     journal and samples to figures; objectives judges them, report draws them, comparison sets two side by side
"""
