"""Asterisk's REST interface: what to ask (``requests``), and the door it is asked through (``client``)."""
