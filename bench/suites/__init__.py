"""Built-in suites by name; each module defines SPECS. Imports bench.records and deq only."""

SUITES = {
    "tiny": "bench.suites.tiny",
    "smoke": "bench.suites.smoke",
    "small": "bench.suites.small",
    "speed": "bench.suites.speed",
    "text": "bench.suites.text",
    "copy": "bench.suites.copying",
    "paper": "bench.suites.paper",
    "track": "bench.suites.track",
    "iterate": "bench.suites.iterate",
    "gate": "bench.suites.gate",
    "ptb": "bench.suites.ptb",
    "ptb-gpu": "bench.suites.ptb_gpu",
}
