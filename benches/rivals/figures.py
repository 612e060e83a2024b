"""What the rivals' programs have in common: arguments, tokens, and the rows that they print."""
import json
import resource
import sys


def arguments(usage):
    """Path, threads, prompt lengths, generated tokens and the depth of those from the command line."""
    if len(sys.argv) not in (5, 6):
        sys.exit(usage)
    prompts = [int(n) for n in sys.argv[3].split(",") if int(n)]
    n_gen, _, depth = sys.argv[4].partition("@")
    return sys.argv[1], int(sys.argv[2]), prompts, int(n_gen), int(depth or 0)


def sequences():
    """Numbers of texts to generate at once: what follows, if anything does."""
    given = sys.argv[5] if len(sys.argv) > 5 else "1"
    return [int(n) for n in given.split(",")]


def tokens(count, vocabulary):
    """The same tokens for every engine; of another number others from the first on, so that nothing cached serves."""
    return [(i * 7919 + 13 + 31 * count) % vocabulary for i in range(count)]


def row(**fields):
    print(json.dumps(fields), flush=True)


def loaded(engine, threads, seconds):
    """From opening the file to the first token, and the memory held then at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row(engine=engine, threads=threads, test="load", value=seconds, peak_rss_bytes=peak)


def prefill(engine, threads, n_prompt, seconds):
    row(engine=engine, threads=threads, test=f"pp{n_prompt}", value=n_prompt / seconds)


def decode(engine, threads, n_gen, depth, seconds, texts=1):
    at = (f"x{texts}" if texts > 1 else "") + (f"@{depth}" if depth else "")
    row(engine=engine, threads=threads, test=f"tg{n_gen}{at}", value=texts * n_gen / seconds)
