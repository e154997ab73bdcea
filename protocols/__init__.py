"""The maths and who sends what. Pure: no files, sockets, clocks or logs; randomness is an argument."""
