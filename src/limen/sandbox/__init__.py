"""Where does a local server run?"""
