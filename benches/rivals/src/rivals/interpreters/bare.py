"""Evaluates what comes in, and answers with its `repr`: four bytes of length, then the text, both ways."""

import sys

requests, answers = sys.stdin.buffer, sys.stdout.buffer
names = {}
while head := requests.read(4):
    code = requests.read(int.from_bytes(head, "big")).decode()
    answer = repr(eval(compile(code, "<cell>", "eval"), names)).encode()
    answers.write(len(answer).to_bytes(4, "big") + answer)
    answers.flush()
