"""Rendering (PS3.18 8.7.4): frames to pictures of 8 bits a channel, reports to text. Pure: no database, no network."""
