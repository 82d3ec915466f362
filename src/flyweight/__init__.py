"""flyweight"""
