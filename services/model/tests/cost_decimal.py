"""What lines cost, in decimal arithmetic, straight from the keys of litellm's price file.

Written from docs/pricing.md, apart from the Rust code that it checks. Reads cases as JSON from
standard input, writes one answer per case: [cost, cache saving, cache write extra] in nano-USD,
or null when a rate is missing. Argument: the gzipped price file.
"""

import gzip
import json
import re
import sys
from decimal import ROUND_HALF_EVEN, Context, Decimal, setcontext

setcontext(Context(prec=60))

SUFFIX = {"batch": "_batches", "priority": "_priority", "flex": "_flex"}
WRITES = {
    "unspecified": [],
    "ttl_5m": [],
    "ttl_30m": [],
    "ttl_1h": ["cache_creation_input_token_cost_above_1hr"],
    "ttl_12h": ["cache_creation_input_token_cost_above_12hr"],
}
INPUT, OUTPUT = "input_cost_per_token", "output_cost_per_token"
READ, WRITE = "cache_read_input_token_cost", "cache_creation_input_token_cost"
FEES = {
    "google_maps": ("google_maps_grounding_cost_per_query", 1),
    "code_interpreter": ("code_interpreter_cost_per_session", 1),
    "file_search": ("file_search_cost_per_1k_calls", 1000),
}


def flatten(entry):
    """Spells a tiered_pricing table out as base and _above_ keys, and old names as new ones."""
    flat = {k: v for k, v in entry.items() if v is not None}
    if "input_cost_per_token_cache_hit" in flat:
        flat.setdefault(READ, flat["input_cost_per_token_cache_hit"])
    ranges = [r for r in flat.get("tiered_pricing", []) if "range" in r]
    for cached in (READ, WRITE):
        named = cached in flat or any(cached in r for r in ranges)
        for row in ranges:
            if named and (row["range"][0] > 0 or cached not in flat):
                row.setdefault(cached, row[INPUT])
    for row in ranges:
        start = int(row["range"][0])
        infix = f"_above_{start // 1000}k_tokens" if start else ""
        for key, value in row.items():
            if "_cost" in key:
                flat[key + infix] = value
    return flat


class Entry:
    """One entry of the file, seen from one service tier and one prompt length."""

    def __init__(self, flat, tier, prompt):
        self.flat = flat
        self.factor = Decimal(1)
        suffix = SUFFIX.get(tier, "")
        if tier == "fast":
            options = flat.get("provider_specific_entry") or {}
            if "fast" in options:
                self.factor = Decimal(options["fast"])
            elif self.has("_ultrafast"):
                suffix = "_ultrafast"
            elif self.has("_priority"):
                suffix = "_priority"
        self.places = []
        for end in dict.fromkeys([suffix, ""]):
            threshold = self.threshold(end, prompt)
            if threshold:
                self.places.append(f"_above_{threshold}k_tokens{end}")
        self.places += dict.fromkeys([suffix, ""])

    def has(self, suffix):
        return any(k.endswith(suffix) and "cost" in k for k in self.flat)

    def threshold(self, suffix, prompt):
        """The highest threshold of this tier that the prompt passes, in thousands."""
        found = []
        for key in self.flat:
            match = re.search(r"_(?:token|1hr|12hr|cost)_above_(\d+)k_tokens(.*)$", key)
            if match and match[2] == suffix and "_token" in key.split("_above_")[0]:
                start = int(match[1])
                at = start * 1000 - (1 if self.flat["litellm_provider"] == "xai" else 0)
                if prompt > at:
                    found.append(start)
        return max(found, default=None)

    def rate(self, *chain):
        """The first key of the chain that any place has, from the most specific place on."""
        for key in chain:
            for place in self.places:
                if key + place in self.flat:
                    return Decimal(self.flat[key + place]) * self.factor
        return None

    def reasoning(self):
        for place in self.places:
            for key in ("output_cost_per_reasoning_token", OUTPUT):
                if key + place in self.flat:
                    return Decimal(self.flat[key + place]) * self.factor
        return None

    def fee(self, tool):
        if tool == "web_search":
            sizes = self.flat.get("search_context_cost_per_query") or {}
            return Decimal(sizes.get("search_context_size_medium", 0))
        key, units = FEES.get(tool, ("", 1))
        return Decimal(self.flat.get(key, 0)) / units


def nano(usd):
    return int((usd * 10**9).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


def price(flat, case):
    c = case["counts"]
    writes = c["cache_write"]
    prompt = c["input"] + c["cache_read"] + sum(writes.values())
    entry = Entry(flat, case["tier"], prompt)
    plain = entry.rate(INPUT)
    audio = entry.rate("input_cost_per_audio_token", INPUT)
    read = entry.rate(READ, INPUT)
    read_audio = entry.rate("cache_read_input_audio_token_cost", READ, INPUT)
    text_read = c["cache_read"] - c["cache_read_audio"]
    spoken_out, drawn_out = c["output_audio"], c["output_image"]
    bill = [
        (c["input"] - c["input_audio"] - c["input_image"], plain),
        (c["input_audio"], audio),
        (c["input_image"], entry.rate("input_cost_per_image_token", INPUT)),
        (text_read, read),
        (c["cache_read_audio"], read_audio),
        (c["output"] - c["reasoning"] - spoken_out - drawn_out, entry.rate(OUTPUT)),
        (c["reasoning"], entry.reasoning()),
        (spoken_out, entry.rate("output_cost_per_audio_token", OUTPUT)),
        (drawn_out, entry.rate("output_cost_per_image_token", OUTPUT)),
    ]
    extra = Decimal(0)
    for ttl, tokens in writes.items():
        rate = entry.rate(*WRITES[ttl], WRITE, INPUT)
        bill.append((tokens, rate))
        if tokens and plain is not None and rate is not None:
            extra += tokens * (rate - plain)
    if any(tokens and rate is None for tokens, rate in bill):
        return None
    saving = Decimal(0)
    if text_read and plain is not None:
        saving += text_read * (plain - read)
    if c["cache_read_audio"] and audio is not None:
        saving += c["cache_read_audio"] * (audio - read_audio)
    total = sum((tokens * rate for tokens, rate in bill if tokens), Decimal(0))
    total += sum((n * entry.fee(tool) for tool, n in case["tools"].items()), Decimal(0))
    return [nano(total), nano(saving), nano(extra)]


def main():
    with gzip.open(sys.argv[1], "rt", encoding="utf-8") as file:
        prices = json.load(file, parse_float=Decimal)
    flat = {}
    answers = []
    for case in json.load(sys.stdin):
        key = case["key"]
        if key not in flat:
            flat[key] = flatten(prices[key])
        answers.append(price(flat[key], case))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
