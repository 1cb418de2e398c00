"""Sound of calls: the AudioSocket protocol, its server, and the codecs of telephony."""
