/* obdsup-ringd: plays the kernel's part of a TCMU ring. */
#include <stdio.h>

int main(void)
{
	fprintf(stderr, "obdsup-ringd: no front end yet\n");
	return 2;
}
