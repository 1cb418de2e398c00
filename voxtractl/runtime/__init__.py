"""Calls: Asterisk's events become sessions, handlers get them, every session ends once.

    supervisor      all tenants of a document in one process; beside it: loading a handler file, the tenants'
                    loops (threads), other workers, logs, monitor (/metrics), service (systemd),
                    peer (files for voxtra)
    app             VoxtraApp: handlers by number, calls to them, calls out
    hub             one Asterisk: its events become calls, its channels get commands
      websockets    which Stasis app is on which connection
      sender        requests that are sent until they are answered
      turns         a tenant has a quarter of its connections, and no more
      places        where a call is, and where it goes that nobody takes
    session         CallSession: one call as its handler has it
      media         legs of sound        recordings    into files and sinks
      sounds        what Asterisk plays  hooks, speech
      channel       commands, and waits that end with the call
      auxiliary     channels and bridges beside the calls
    lifecycle       the table of how a call ends; and the other rooms without I/O: router, digits, …

A room uses those below it only (a contract in pyproject.toml).
"""
