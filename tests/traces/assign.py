#!/usr/bin/env python3
"""Makes usage rows of a production trace: assign.py azure|mooncake TRACE > ROWS.csv

The traces say when a call came and how long its prompt and answer were. What they do not say is
assigned here by rules with a fixed seed, so that the same trace always makes the same rows:

- user: one of 200, by a Zipf distribution with exponent 1.1;
- session: a user goes on with the last one, or with probability 0.2 begins another; turns count up;
- model: acme-large 20 %, acme-small 70 %, acme-unlisted (which has no price) 10 %;
- status: 2 % failed, 1 % interrupted; latency: 20 ms a generated token and 1 ms for 10 of the prompt;
- cache reads (mooncake): a block of 512 prompt tokens whose hash was seen before is a cache read;
- time (mooncake, whose trace is of one hour): 2026-02-20 on, 600 times as slow, so that the rows
  cross months and a change of the clock. Azure's times are its own.
"""
import csv
import gzip
import json
import random
import sys
from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
BLOCK = 512


def azure(path):
    with open(path, newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            at, fraction = row["TIMESTAMP"].split(".")
            at = datetime.strptime(at, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
            time_us = (at - EPOCH) // timedelta(microseconds=1) + int(fraction[:6])
            yield row["TIMESTAMP"], time_us, int(row["ContextTokens"]), 0, int(row["GeneratedTokens"])


def mooncake(path):
    begin = datetime(2026, 2, 20, tzinfo=timezone.utc)
    seen = set()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            prompt, cached = row["input_length"], 0
            for n, block in enumerate(row["hash_ids"]):
                if block in seen:
                    cached += max(0, min(BLOCK, prompt - n * BLOCK))
                seen.add(block)
            at = begin + timedelta(milliseconds=600 * row["timestamp"])
            text = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            yield text, (at - EPOCH) // timedelta(microseconds=1), prompt, cached, row["output_length"]


def main():
    trace, path = sys.argv[1:]
    chance = random.Random(20261121)
    users = [f"user-{n:03}" for n in range(200)]
    weights = [1 / (n + 1) ** 1.1 for n in range(200)]
    sessions, turns = {}, {}
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow("time time_us user session turn model prompt cache_read output status latency_ms".split())
    for text, time_us, prompt, cached, output in {"azure": azure, "mooncake": mooncake}[trace](path):
        user = chance.choices(users, weights)[0]
        if user not in sessions or chance.random() < 0.2:
            sessions[user] = sessions.get(user, 0) + 1
        session = f"{user}/{sessions[user]}"
        turns[session] = turns.get(session, 0) + 1
        model = chance.choices(["acme-large", "acme-small", "acme-unlisted"], [20, 70, 10])[0]
        status = chance.choices(["succeeded", "failed", "interrupted"], [97, 2, 1])[0]
        latency = 20 * output + prompt // 10
        out.writerow([text, time_us, user, session, turns[session], model, prompt, cached, output, status, latency])


main()
