"""A reliable, encrypted stream of bytes between two processes, over any network.

TLS of the standard library encrypts it; both ends prove that they hold a token; what is sent
is kept until the other end has it, and sent again on a new connection where one breaks.
It knows nothing of what the bytes mean. ``client.Client`` connects, ``server.Server`` accepts;
both carry a ``stream.Stream``.
"""
